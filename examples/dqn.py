"""Deep Q-learning (Mnih et al., 2015): to balance a pole on a cart, learnt by trial and error in a few seconds.

Fifty times a second the cart is pushed, to the left or to the right. A 4-64-64-2 network says what either push is
worth: the sum of the discounted rewards that follow. A step of the cart is one `predict` of one row, and one training
step on 32 remembered steps. What these were worth is said by a second network, whose parameters follow those of the
first slowly. All of it is a plain loop around single calls.
"""

import math
import sys
import time

import numpy as np

import fastbp

STEPS, LONGEST = 20_000, 500  # of the cart: in all, and of an episode
WARM_UP, EXPLORING, LEAST = 500, 5_000, 0.02  # steps before learning; until few pushes are random, and their share
BATCH, GAMMA, TAU = 32, 0.99, 0.01  # remembered steps at a time; discount; how fast the second network follows
RATE = fastbp.schedules.Cosine(3e-3, STEPS)

# A remembered step is a row of 12: the state, (1, 0) or (0, 1) for the push, the reward, 0 where the pole fell then,
# and the state afterwards. So a batch is gathered in one go.
STATE, CHOSEN, REWARD, GOES_ON, NEXT = slice(0, 4), slice(4, 6), 6, 7, slice(8, 12)
PUSHES = (1.0, 0.0), (0.0, 1.0)


class CartPole:
    """A pole of 1 m and 0.1 kg on a cart of 1 kg (Barto, Sutton and Anderson, 1983).

    The state is the cart's position and velocity, the pole's angle from upright and its angular velocity: in m, rad, s.
    """

    GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self):
        self.age, self.state = 0, self.rng.uniform(-0.05, 0.05, 4).tolist()
        return self.state

    def step(self, push):
        """The state after a push, 0 or 1 for left or right, and whether the pole fell or the cart left its track."""
        x, velocity, angle, turning = self.state
        sine, cosine, share = math.sin(angle), math.cos(angle), self.POLE / (self.CART + self.POLE)
        force = (self.FORCE if push else -self.FORCE) / (self.CART + self.POLE)
        force += share * self.HALF_LENGTH * turning * turning * sine
        turns = (self.GRAVITY * sine - cosine * force) / (self.HALF_LENGTH * (4 / 3 - share * cosine * cosine))
        moves = force - share * self.HALF_LENGTH * turns * cosine
        h = self.SECONDS
        self.state = x + h * velocity, velocity + h * moves, angle + h * turning, turning + h * turns
        self.age += 1
        return self.state, abs(self.state[0]) > 2.4 or abs(self.state[2]) > 0.21


class Learner:
    """Two networks, Huber's loss, Adam."""

    def __init__(self, seed):
        self.net, self.target = (fastbp.MLP((4, 64, 64, 2), init="he_uniform", seed=seed) for _ in range(2))
        self.optimizer = fastbp.Adam(RATE)

    def act(self, state):
        """The better push in a state, a row of (1, 4)."""
        left, right = self.net.predict(state)[0]
        return int(right > left)

    def worth(self, batch):
        """What the chosen pushes were worth, (n, 1): the reward, and the best that the state afterwards promises."""
        after = self.target.predict(batch[:, NEXT])
        best = np.maximum(after[:, 0], after[:, 1])
        return (batch[:, REWARD] + GAMMA * batch[:, GOES_ON] * best)[:, None]

    def learn(self, batch):
        """One step on remembered ones. What the other push is worth nobody knows: its target has weight 0."""
        chosen = batch[:, CHOSEN]
        self.net.train_step(
            batch[:, STATE], self.worth(batch) * chosen, loss="huber", optimizer=self.optimizer, sample_weight=chosen
        )

    def follow(self):
        self.target.copy_from(self.net, tau=TAU)


class ByGradient(Learner):
    """The same by a gradient of one's own."""

    def learn(self, batch):
        error = (self.net.forward(batch[:, STATE]) - self.worth(batch)) * batch[:, CHOSEN]
        self.net.backward_update(np.clip(error, -1, 1) / len(batch), self.optimizer)


def play(learner, seed, steps=STEPS):
    """Learn for so many steps of the cart. Returns the length of each episode, and the step at which it ended."""
    cart, rng = CartPole(seed), np.random.default_rng(seed)
    memory, batch, lengths, ends = np.zeros((steps, 12), np.float32), np.empty((BATCH, 12), np.float32), [], []
    chance, random_push = rng.random(steps).tolist(), rng.integers(2, size=steps).tolist()  # at once: that is cheaper
    state = cart.reset()
    for k in range(steps):
        row = memory[k]
        row[STATE] = state
        explores = chance[k] < max(LEAST, 1 - k / EXPLORING)
        push = random_push[k] if explores else learner.act(row[None, STATE])
        state, fell = cart.step(push)
        row[CHOSEN], row[REWARD], row[GOES_ON], row[NEXT] = PUSHES[push], -fell, not fell, state
        if fell or cart.age == LONGEST:
            lengths.append(cart.age)
            ends.append(k + 1)
            state = cart.reset()
        if k >= WARM_UP:
            learner.learn(memory.take(rng.integers(k + 1, size=BATCH), axis=0, out=batch))
            learner.follow()
    return np.array(lengths), np.array(ends)


def balance(learner, seed, episodes=10):
    """The mean length of episodes without random pushes."""
    cart, total = CartPole(seed), 0
    for _ in range(episodes):
        state, fell = cart.reset(), False
        while not fell and cart.age < LONGEST:
            state, fell = cart.step(learner.act(np.array([state], np.float32)))
        total += cart.age
    return total / episodes


def main():
    for kind, how in ((ByGradient, "a gradient of one's own"), (Learner, "train_step")):
        learner = kind(seed=0)
        began = time.perf_counter()
        lengths, ends = play(learner, seed=0)
        seconds = time.perf_counter() - began
        print(f"by {how}: {len(lengths)} episodes, {STEPS} steps of the cart in {seconds:.1f} seconds")
        print(f"mean length of the first 20 episodes {lengths[:20].mean():.1f}, the last 20 {lengths[-20:].mean():.1f}")
        print(f"without random pushes {balance(learner, seed=1):.1f}, of at most {LONGEST}")

    # ---- The picture (needs matplotlib), where a file is named for it: `python examples/dqn.py dqn.png`

    if len(sys.argv) > 1:
        from matplotlib import pyplot as plt

        figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
        means = [lengths[max(k - 9, 0) : k + 1].mean() for k in range(len(lengths))]
        ax.plot(ends, lengths, ".", color="#999999", label="an episode")
        ax.plot(ends, means, color="#0072B2", lw=2, label="mean of the last 10")
        ax.set(xlabel="steps of the cart", ylabel="steps until the pole falls")
        ax.legend(frameon=False)
        figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)


if __name__ == "__main__":
    main()
