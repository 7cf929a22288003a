"""Generates titles token by token, and only titles that the catalogue holds.

**How a title is scored.** At every node of the trie the model's logits become a distribution over the tokens that
can follow *there*: a softmax over the node's children. The probability of a title is the product along its path. So

- the probabilities of all titles of the catalogue sum to one, and compare across titles of any length;
- a token without an alternative costs ``log 1 = 0``. A title is not punished for a long, certain tail and needs no
  length normalisation, which would reward such tails instead (the "ghost tokens" of D3, arXiv 2406.14900);
- as soon as one title is left below a beam its score is final, and the model runs no further for it.

What is not in the catalogue, or below which nothing is allowed, is no branch of the search. It keeps its share of the
probability: excluding "Mario 1" does not lift "Mario 2" over the rest, and scores under different masks compare.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from model_store.errors import InvalidInput
from model_store.hatllm.titles.trie import TitleTrie, TrieNode


class NextTokenScorer(Protocol):
    """A language model that has read a history, and then reads one token per beam and step."""

    def first(self) -> torch.Tensor:
        """(V,) logits of the first title token, after the history. Called once at most, before any :meth:`step`."""

    def step(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Reads one more token per beam; beams that nobody names as parent are over.

        Args:
            parents: (n,) int64: the row, in the step before, of the beam that each new beam continues; 0 is the
                history in the first step. Repeats where a beam branches. On the device of the last logits.
            tokens: (n,) int64, what each new beam reads.

        Returns:
            (n, V) logits of the next token.
        """


@dataclass(frozen=True)
class _Beams:
    """Nodes of one depth and how they were reached, n of them.

    Attributes:
        parents: (n,) int64, rows of the beams of the depth before.
        tokens: (n,) int64, the last token.
        los: (n,) int64; with ``his`` the rows of the trie below.
        his: (n,) int64.
        scores: (n,) float64 log-probabilities.
    """

    parents: np.ndarray
    tokens: np.ndarray
    los: np.ndarray
    his: np.ndarray
    scores: np.ndarray

    def take(self, chosen: np.ndarray) -> "_Beams":
        return _Beams(
            self.parents[chosen], self.tokens[chosen], self.los[chosen], self.his[chosen], self.scores[chosen]
        )

    def best(self, count: int) -> "_Beams":
        """The best first; equal ones in the order of the trie, so that an answer repeats."""
        return self.take(np.lexsort((self.los, -self.scores))[:count])


def beam_search(
    scorer: NextTokenScorer,
    trie: TitleTrie,
    *,
    num_beams: int,
    k: int,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the most probable titles of the catalogue and the items that bear them.

    A finished title takes no beam from those that go on. The search ends when no beam can still beat the titles that
    fill the answer, since a longer path is never more probable. It is exact with as many beams as there are titles.

    Args:
        scorer: The model after the history. The logits of tokens that the trie allows must be finite.
        trie: The titles of the catalogue.
        num_beams: How many unfinished beginnings are followed at each depth, and the most titles found.
        k: The most items returned.
        allowed: (N,) bool, which items may be returned; row ``i`` is ``item_index`` ``i + 1``. None: all.

    Returns:
        item_index (C,) int64 and log_probability (C,) float32, best first, C at most k. Items that share a title
        share its whole probability, the most popular first. C may be less than k only if the titles found bear less
        than k allowed items, as with less than k beams.

    Raises:
        InvalidInput: ``num_beams`` or ``k`` under 1, a mask of another shape or type, or titles with tokens that the
            scorer does not know.
        FloatingPointError: A logit that is not finite.
    """
    if num_beams < 1:
        raise InvalidInput(f"num_beams is {num_beams}, expected at least 1")
    if k < 1:
        raise InvalidInput(f"k is {k}, expected at least 1")
    counts = np.arange(trie.num_leaves + 1) if allowed is None else trie.admissible_counts(allowed)
    leaves = _best_leaves(scorer, trie, num_beams=num_beams, num_leaves=min(num_beams, k), counts=counts)
    return _items(trie, leaves, k, allowed)


def _best_leaves(
    scorer: NextTokenScorer, trie: TitleTrie, *, num_beams: int, num_leaves: int, counts: np.ndarray
) -> _Beams:
    """The search itself; ``counts`` as from :meth:`TitleTrie.admissible_counts`. Beams of one leaf each."""
    history = np.zeros(1, dtype=np.int64)
    candidates = _Beams(history, history, history, np.array([trie.num_leaves]), np.zeros(1))
    found = candidates.take(history[:0])
    depth = 0
    logits: torch.Tensor | None = None
    while True:
        candidates = candidates.take(counts[candidates.his] > counts[candidates.los])
        is_finished = candidates.his - candidates.los == 1  # what is forced from here on is certain
        found = _joined(found, candidates.take(is_finished)).best(num_leaves)
        # log-probabilities only fall: what is no better now than the last title of a full answer never will be
        bar = found.scores[-1] if len(found.scores) == num_leaves else -np.inf
        live = candidates.take(~is_finished & (candidates.scores > bar)).best(num_beams)
        if not len(live.scores):
            return found
        logits = _read(scorer, live, logits, trie)
        candidates = _expanded(trie, depth, live, logits)
        depth += 1


def _joined(left: _Beams, right: _Beams) -> _Beams:
    return _Beams(
        np.concatenate([left.parents, right.parents]),
        np.concatenate([left.tokens, right.tokens]),
        np.concatenate([left.los, right.los]),
        np.concatenate([left.his, right.his]),
        np.concatenate([left.scores, right.scores]),
    )


def _read(scorer: NextTokenScorer, live: _Beams, before: torch.Tensor | None, trie: TitleTrie) -> torch.Tensor:
    """(n, V) logits after the live beams; ``before``: the logits of the last step, None in the beginning."""
    if before is None:
        logits = scorer.first().unsqueeze(0)
        if trie.largest_token >= logits.shape[1]:
            raise InvalidInput(
                f"a title holds the token {trie.largest_token}, but the model knows {logits.shape[1]} tokens"
            )
        return logits
    parents, tokens = (torch.from_numpy(column).to(before.device) for column in (live.parents, live.tokens))
    return scorer.step(parents, tokens)


def _expanded(trie: TitleTrie, depth: int, live: _Beams, logits: torch.Tensor) -> _Beams:
    """Every child of the live beams, with its log-probability."""
    nodes = [trie.children(TrieNode(depth, int(lo), int(hi))) for lo, hi in zip(live.los, live.his, strict=True)]
    tokens, los, his = (np.concatenate(column) for column in zip(*nodes, strict=True))
    parents = np.repeat(np.arange(len(nodes)), [len(node[0]) for node in nodes])
    device = logits.device
    # only what the trie allows leaves the accelerator
    chosen = logits.detach()[torch.from_numpy(parents).to(device), torch.from_numpy(tokens).to(device)]
    values = chosen.float().cpu().numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise FloatingPointError("the model gave a logit that is not finite for a token of a title")
    return _Beams(parents, tokens, los, his, live.scores[parents] + _log_softmax(values, parents))


def _log_softmax(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Over each group on its own: values (n,), groups (n,) ascending from 0 without gaps. Exactly 0 for one alone."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    shifted = values - np.maximum.reduceat(values, starts)[groups]
    return shifted - np.log(np.add.reduceat(np.exp(shifted), starts))[groups]


def _items(trie: TitleTrie, leaves: _Beams, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    item_indices = np.empty(0, dtype=np.int64)
    scores = np.empty(0, dtype=np.float32)
    for leaf, score in zip(leaves.los, leaves.scores, strict=True):
        if len(item_indices) >= k:
            break
        items = trie.items_of(int(leaf))
        if allowed is not None:
            items = items[allowed[items - 1]]
        item_indices = np.concatenate([item_indices, items])
        scores = np.concatenate([scores, np.full(len(items), score, dtype=np.float32)])
    return item_indices[:k], scores[:k]
