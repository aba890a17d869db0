"""Chains written with `scan`, against sums over all their paths and forward–backward in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from scipy.special import logsumexp
from scipy.stats import poisson

from triptych.inference.em.expected import joint_of
from triptych.inference.marginal import marginal
from triptych.inference.posterior import pointwise
from triptych.models.errors import InferenceWarning, InputError

rng = np.random.default_rng(7)
COUNTS = np.array([3, 1, 6, 2, 9])
REALS = np.array([0.3, -1.2, 2.1, 0.4])
TABLE = np.array([[[0.1, 1.2], [-0.3, 0.8]], [[1.9, -0.2], [0.4, 0.0]], [[2.2, 0.7], [0.1, -1.0]]])


def _transition(name, states, rows=None):
    with numpyro.plate(f"{name}_rows", rows or states):
        return jnp.asarray(numpyro.sample(name, dist.Dirichlet(jnp.full(states, 2.0))))


def poisson_chain(x, states=3):
    """One more row of the transition matrix says where the chain begins."""
    rows = _transition("rows", states, states + 1)
    rate = jnp.asarray(numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([states]).to_event(1)))

    def step(before, count):
        state = numpyro.sample("state", dist.Categorical(rows[before]))
        numpyro.sample("count", dist.Poisson(rate[state]), obs=count)
        return state, None

    scan(step, states, x)


def start_outside(x):
    """The first state and observation stand before the scan; the states come back, unused."""
    initial = jnp.asarray(numpyro.sample("initial", dist.Dirichlet(jnp.ones(2))))
    rows = _transition("rows", 2)
    mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0, 2).expand([2]).to_event(1)))
    first = numpyro.sample("first", dist.Categorical(initial))
    numpyro.sample("x_first", dist.Normal(mean[first], 1.0), obs=x[0])

    def step(before, value):
        state = numpyro.sample("state", dist.Categorical(rows[before]))
        numpyro.sample("x", dist.Normal(mean[state], 1.0), obs=value)
        return state, state

    return scan(step, first, x[1:])


def plated(x, lengths=(3, 2)):
    """Two sequences of different lengths, three columns' worth of plates, masked where they have ended."""
    rows = _transition("rows", 2)
    mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0, 2).expand([2, 2]).to_event(2)))

    def step(carry, value):
        before, time = carry
        with (
            numpyro.plate("sequences", 2, dim=-2),
            handlers.mask(mask=(time < jnp.asarray(lengths))[:, None]),
        ):
            state = numpyro.sample("state", dist.Categorical(rows[before]))
            with numpyro.plate("columns", 2, dim=-1):
                numpyro.sample("x", dist.Normal(mean[state, jnp.arange(2)], 1.0), obs=value)
        return (state, time + 1), None

    scan(step, (jnp.zeros((2, 1), int), 0), x)


def two_chains(x):
    """Two chains whose sum is seen (a factorial chain), the second also moved by the first."""
    rows, turns = _transition("rows", 2), _transition("turns", 3, 6)

    def step(before, value):
        a, b = before
        a = numpyro.sample("a", dist.Categorical(rows[a]))
        b = numpyro.sample("b", dist.Categorical(turns[3 * a + b]))
        numpyro.sample("x", dist.Normal(a - 0.7 * b, 1.0), obs=value)
        return (a, b), None

    scan(step, (0, 0), x)


def autoregressive(x):
    """The last observation and a counter come in through the carry; a mixture in each state does not."""
    rows = _transition("rows", 2)
    slope = jnp.asarray(numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1)))

    def step(carry, value):
        before, last, time = carry
        state = numpyro.sample("state", dist.Categorical(rows[before]))
        kind = numpyro.sample("kind", dist.Categorical(jnp.array([[0.3, 0.7], [0.6, 0.4]])[state]))
        numpyro.sample("x", dist.Normal(slope[state] * last + kind + 0.1 * time, 1.0), obs=value)
        numpyro.sample("aside", dist.Normal(0.2 * last, 2.0), obs=value)
        return (state, value, time + 1), last

    scan(step, (jnp.asarray(0), 0.5, 0), x)


def kinds_of_chains(x):
    """Each sequence is of one of two kinds, which have transitions of their own."""
    share = jnp.asarray(numpyro.sample("share", dist.Dirichlet(jnp.ones(2))))
    rows = _transition("rows", 2, 4)
    with numpyro.plate("sequences", 2):
        kind = numpyro.sample("kind", dist.Categorical(share))

    def step(before, value):
        with numpyro.plate("sequences", 2):
            state = numpyro.sample("state", dist.Categorical(rows[2 * kind + before]))
            numpyro.sample("x", dist.Normal(2.0 * state, 1.0), obs=value)
        return state, None

    scan(step, jnp.zeros(2, int), x)


def moved_by_data(x):
    """What is carried is made of the state and that step's data, and covariates move the transitions too."""
    rows = _transition("rows", 2, 4)

    def step(before, value):
        probs = jax.nn.softmax(jnp.log(rows[before]) + 0.3 * value * jnp.arange(2))
        state = numpyro.sample("state", dist.Categorical(probs))
        numpyro.sample("x", dist.Normal(1.5 * state, 1.0), obs=value)
        return 2 * state + (value > 0), None

    scan(step, 1, x)


def one_step(x):
    poisson_chain(x[:1])


class Case:
    """A program, its data, its unit, and every assignment of its latents: name → (paths, ...)."""

    def __init__(self, program, x, latents, unit, plates=()):
        self.program, self.x, self.unit, self.plates = program, x, unit, plates
        self.latents = latents
        axes = [(name, place, size) for name, (shape, size) in latents.items() for place in np.ndindex(shape)]
        combinations = list(itertools.product(*(range(size) for *_, size in axes)))
        self.paths = {n: np.zeros((len(combinations), *shape), int) for n, (shape, _) in latents.items()}
        for i, combination in enumerate(combinations):
            for (name, place, _), value in zip(axes, combination, strict=True):
                self.paths[name][(i, *place)] = value

    @functools.cached_property
    def theta(self):
        sites = marginal(self.program).structure(self.x).parameters
        transforms = {name: dist.biject_to(site.support) for name, site in sites.items()}
        return {
            name: transforms[name](jnp.asarray(rng.normal(size=transforms[name].inverse_shape(site.shape))))
            for name, site in sites.items()
        }

    @functools.cached_property
    def log_joints(self):
        theta = self.theta

        def one(path):
            return log_density(self.program, (self.x,), {}, {**theta, **path})[0]

        return np.asarray(jax.jit(jax.vmap(one))({name: jnp.asarray(p) for name, p in self.paths.items()}))


CASES = {
    "poisson": Case(poisson_chain, COUNTS, {"state": ((5,), 3)}, "count"),
    "start_outside": Case(start_outside, REALS, {"first": ((), 2), "state": ((3,), 2)}, "x_first+x"),
    "two_chains": Case(two_chains, REALS, {"a": ((4,), 2), "b": ((4,), 3)}, "x"),
    "autoregressive": Case(autoregressive, REALS, {"state": ((4,), 2), "kind": ((4,), 2)}, "x+aside"),
    "kinds": Case(kinds_of_chains, TABLE[:, :, 0], {"kind": ((2,), 2), "state": ((3, 2), 2)}, "x"),
    "moved_by_data": Case(moved_by_data, REALS, {"state": ((4,), 2)}, "x"),
    "one_step": Case(one_step, COUNTS, {"state": ((1,), 3)}, "count"),
}


@pytest.mark.parametrize("name", CASES)
def test_chain_is_the_sum_over_every_path(name):
    case = CASES[name]
    m, total = marginal(case.program), logsumexp(case.log_joints)
    density, rows, posteriors = evaluate(m, case.theta, case.x)
    np.testing.assert_allclose(density, total, rtol=1e-12)
    assert list(rows) == [case.unit]
    prior = sum(np.sum(v) for v in log_prior(case).values())
    np.testing.assert_allclose(np.sum(rows[case.unit]) + prior, total, rtol=1e-12)
    weights = np.exp(case.log_joints - total)
    for latent, posterior in posteriors.items():
        shape, size = case.latents[latent]
        assert posterior.shape == (*shape, size)
        hot = case.paths[latent][..., None] == np.arange(size)
        np.testing.assert_allclose(posterior, np.tensordot(weights, hot, 1), atol=1e-12)


def evaluate(m, theta, x):
    """Everything at once, compiled: one operation after the other takes longer."""

    def run(theta):
        return m.log_density(theta, x), m.log_likelihood(theta, x), m.posteriors(theta, x)

    return jax.jit(run)(theta)


def log_prior(case):
    sites = handlers.trace(handlers.substitute(handlers.seed(case.program, 0), case.theta))
    trace = sites.get_trace(case.x)
    return {name: trace[name]["fn"].log_prob(trace[name]["value"]) for name in case.theta}


def test_masked_steps_do_not_count():
    m = marginal(plated)
    case = Case(plated, TABLE, {"state": ((3, 2, 1), 2)}, "x")
    ended = case.paths["state"][:, 2, 1, 0]  # the second sequence has two steps: its third state is nothing
    total = logsumexp(case.log_joints[ended == 0])
    density, rows, posteriors = evaluate(m, case.theta, TABLE)
    np.testing.assert_allclose(density, total, rtol=1e-12)
    rows, posterior = rows["x"], posteriors["state"]
    assert rows.shape == (2,)
    alone = jax.jit(lambda lengths: m.log_likelihood(case.theta, TABLE, lengths=lengths)["x"])
    np.testing.assert_allclose([alone(np.array(one)) for one in ((3, 0), (0, 2))], np.diag(rows), atol=1e-12)
    assert posterior.shape == (3, 2, 2)
    np.testing.assert_allclose(posterior[2, 1], 0.5)


def forward_backward(rows, rate, x):
    """Posteriors, log p(x_t | x_<t), and the expected transitions, as the textbook has them."""
    emission = poisson.pmf(x[:, None], rate)
    forward, scale = np.zeros_like(emission), np.zeros(len(x))
    for t in range(len(x)):
        joint = (rows[-1] if t == 0 else forward[t - 1] @ rows[:-1]) * emission[t]
        scale[t] = joint.sum()
        forward[t] = joint / scale[t]
    backward = np.ones_like(emission)
    for t in range(len(x) - 2, -1, -1):
        backward[t] = rows[:-1] @ (emission[t + 1] * backward[t + 1]) / scale[t + 1]
    pairs = sum(
        forward[t][:, None] * rows[:-1] * (emission[t + 1] * backward[t + 1]) / scale[t + 1]
        for t in range(len(x) - 1)
    )
    return forward * backward, np.log(scale), pairs


@pytest.fixture(scope="module")
def long_chain():
    rows = rng.dirichlet(np.full(3, 1.0), 4)
    x = rng.poisson(rng.choice([2.0, 9.0, 20.0], 200))
    return {"rows": rows, "rate": np.array([3.0, 8.0, 19.0])}, x


def test_long_chain_is_forward_backward_in_numpy(long_chain):
    theta, x = long_chain
    m = marginal(poisson_chain)
    posterior, increments, pairs = forward_backward(theta["rows"], theta["rate"], x)
    _, rows, posteriors = evaluate(m, theta, x)
    np.testing.assert_allclose(posteriors["state"], posterior, atol=1e-11)
    np.testing.assert_allclose(rows["count"], increments.sum(), rtol=1e-12)
    ahead = jax.jit(lambda theta: m.one_step_ahead(theta, x)["count"])
    np.testing.assert_allclose(ahead(theta), increments, atol=1e-10)
    joint = joint_of(poisson_chain, (x,), {}, frozenset(theta))
    weights, value = jax.jit(lambda theta: joint.infer(theta, (x,), {}))(theta)
    np.testing.assert_allclose(value, increments.sum(), rtol=1e-12)
    assert weights["state"].shape == (3, 3)  # transitions are the same in every step, and stay one table
    np.testing.assert_allclose(weights["state"], pairs, atol=1e-9)


def test_high_sharpness_is_the_viterbi_path(long_chain):
    theta, x = long_chain
    log_rows, emission = np.log(theta["rows"]), poisson.logpmf(x[:, None], theta["rate"])
    best, back = log_rows[-1] + emission[0], []
    for t in range(1, len(x)):
        scores = best[:, None] + log_rows[:-1]
        back.append(scores.argmax(axis=0))
        best = scores.max(axis=0) + emission[t]
    path = [int(best.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    path = np.array(path[::-1])
    joint = joint_of(poisson_chain, (x,), {}, frozenset(theta))
    weights, _ = jax.jit(lambda theta: joint.infer(theta, (x,), {}, 1e4))(theta)
    np.testing.assert_allclose(weights["count"], np.eye(3)[path[1:]], atol=1e-9)
    np.testing.assert_allclose(weights["count[1]"], np.eye(3)[path[0]], atol=1e-9)


def test_forbidden_transitions_leave_no_nan():
    """A chain that only moves up: half of its transition matrix is zero."""

    def upwards(x):
        mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0, 5).expand([3]).to_event(1)))
        rows = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

        def step(before, value):
            state = numpyro.sample("state", dist.Categorical(rows[before]))
            numpyro.sample("x", dist.Normal(mean[state], 1.0), obs=value)
            return state, None

        scan(step, 3, x)

    theta = {"mean": jnp.array([0.0, 2.0, 40.0])}
    m = marginal(upwards)
    slope = jax.jit(jax.grad(lambda mean: m.log_density({"mean": mean}, REALS)))(theta["mean"])
    assert np.all(np.isfinite(slope))
    posterior = evaluate(m, theta, REALS)[2]["state"]
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(posterior[0], [1, 0, 0], atol=1e-9)


def refused(kind):
    """Give a program whose scan is outside of what can be summed, each in its own way."""

    def program(x):
        rows = jnp.full((2, 2), 0.5)

        def step(carry, value):
            z = numpyro.sample("z", dist.Categorical(rows[carry[0]]))
            mean = numpyro.sample("drift", dist.Normal(0, 1)) if kind == "continuous" else 1.0 * z
            if kind == "param":
                mean = mean + numpyro.param("shift", 0.0)
            if kind == "mixes":
                mean = jnp.mean(z)
            if kind == "nested":
                scan(lambda c, v: (c, numpyro.sample("inner", dist.Normal(0, 1), obs=v)), 0.0, jnp.ones(2))
            numpyro.sample("x", dist.Normal(mean, 1), obs=value)
            following = {
                "second_order": carry[0],
                "accumulates": carry[1] + z,
                "vector": jnp.stack([z, 1 - z], axis=-1).sum(-1),
                "sum": jnp.sum(z),
            }.get(kind, 0)
            return (z, following), z

        _, path = scan(
            step,
            (0, 0),
            x,
            reverse=kind == "reverse",
            history=2 if kind == "history" else 1,
        )
        if kind == "used_after":
            numpyro.sample("y", dist.Normal(1.0 * path, 1).to_event(1), obs=x)

    if kind == "plate":

        def inside(x):
            with numpyro.plate("rows", 3):
                refused("none")(x)

        return inside
    if kind == "condition":
        return handlers.condition(refused("none"), data={"x": jnp.asarray(REALS)})
    return program


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("continuous", ["'z'", "'drift'", "before the `scan`"]),
        ("param", ["'shift'", "before the `scan`"]),
        ("mixes", ["'x'", "'z'", "mixes"]),
        ("nested", ["'z'", "inside another"]),
        ("second_order", ["'z'", "more than one step", "K²"]),
        ("accumulates", ["'z'", "more than one step", "K²"]),
        ("sum", ["'z'", "carry 'z' itself"]),
        ("reverse", ["'z'", "reverse the data"]),
        ("history", ["'z'", "history=2", "K²"]),
        ("used_after", ["'y'", "'z'", "into the scan's body"]),
        ("plate", ["'rows'", "under a `plate`"]),
        ("condition", ["'x'", "`condition`", "xs"]),
    ],
)
def test_what_no_chain_can_follow_is_refused_by_name(kind, words):
    with pytest.raises(InputError) as error:
        marginal(refused(kind)).log_density({}, REALS)
    for word in words:
        assert word in str(error.value)


def test_sequences_are_units_of_the_likelihood_and_a_chain_alone_is_none():
    case = Case(plated, TABLE, {"state": ((1, 1, 1), 2)}, "x")
    draws = {name: np.stack([np.stack([value] * 3)] * 2) for name, value in case.theta.items()}
    rows, findings = pointwise(marginal(plated), draws, (TABLE,), {})
    assert rows["x"].shape == (2, 3, 2)
    assert findings == ()
    case = CASES["poisson"]
    draws = {name: np.asarray(value)[None, None].repeat(3, axis=1) for name, value in case.theta.items()}
    rows, findings = pointwise(marginal(poisson_chain), draws, (COUNTS,), {})
    assert rows is None
    assert [finding.code for finding in findings] == ["ONE_CHAIN"]
    assert "one_step_ahead" in findings[0].text


def test_other_scans_may_stand_beside_a_chain():
    """One without latents before it, one without steps between, and a second chain after it."""

    def program(x):
        _, drift = scan(lambda c, v: (c + v, c), 0.0, jnp.asarray([0.1, 0.2, 0.3, 0.4]))
        scan(lambda c, v: (c, None), 0.0, jnp.zeros(0))
        rows = jnp.array([[0.8, 0.2], [0.3, 0.7]])

        def chain(name):
            def step(before, value):
                z = numpyro.sample(f"z_{name}", dist.Categorical(rows[before]))
                numpyro.sample(f"x_{name}", dist.Normal(z + value[1], 1.0), obs=value[0])
                return z, drift.sum()

            return scan(step, 0, (x, drift))[1]

        chain("a")
        total = chain("b").sum()  # hangs on no latent, though it comes out of a chain's scan
        numpyro.sample("y", dist.Normal(total, 1.0), obs=1.0)

    m = marginal(program)
    rows = m.log_likelihood({}, REALS)
    assert list(rows) == ["x_a", "x_b", "y"]
    np.testing.assert_allclose(rows["x_a"], rows["x_b"])
    np.testing.assert_allclose(rows["y"], dist.Normal(4 * 1.0, 1.0).log_prob(1.0))
    np.testing.assert_allclose(m.log_density({}, REALS), sum(np.sum(row) for row in rows.values()))


def test_a_long_loop_of_latents_is_advised_to_be_a_scan():
    def program(x):
        for i in range(21):
            z = numpyro.sample(f"z{i}", dist.Bernoulli(0.5))
            numpyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x)

    with pytest.warns(InferenceWarning, match="MANY_LATENTS.*`scan`"):
        marginal(program).structure(0.3)
