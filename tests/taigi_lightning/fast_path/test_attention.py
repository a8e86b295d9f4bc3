"""Document boundaries, and attention that stays inside them."""

import torch

from taigi_lightning.fast_path.attention import Scores, attend, attend_backward, find_documents, seen


def test_boundaries_are_where_positions_stop_counting_on() -> None:
    documents = find_documents(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]))
    assert documents.starts.tolist() == [0, 3, 5, 6, 10]
    assert (documents.longest, documents.whole_rows) == (4, False)
    assert find_documents(torch.arange(5).repeat(2, 1)).whole_rows


def test_each_document_attends_to_itself_with_fewer_key_heads() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 7, 4, 8), torch.randn(1, 7, 2, 8), torch.randn(1, 7, 2, 8)
    documents = find_documents(torch.tensor([[0, 1, 2, 0, 1, 2, 3]]))
    scores = Scores(0.25)
    out, extra = attend(q, k, v, documents, scores)
    grad = torch.randn_like(out)
    found = attend_backward(grad, q, k, v, out, extra, documents, scores)
    for part in (slice(0, 3), slice(3, 7)):
        leaves = [t[:, part].transpose(1, 2).clone().requires_grad_() for t in (q, k, v)]
        alone = torch.nn.functional.scaled_dot_product_attention(
            *leaves, is_causal=True, scale=0.25, enable_gqa=True
        )
        torch.testing.assert_close(out[:, part], alone.transpose(1, 2))
        for mine, theirs in zip(
            found, torch.autograd.grad(alone, leaves, grad[:, part].transpose(1, 2)), strict=True
        ):
            torch.testing.assert_close(mine[:, part], theirs.transpose(1, 2))


def test_a_window_ends_so_many_keys_back_and_at_the_document() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 7, 2, 8), torch.randn(1, 7, 2, 8), torch.randn(1, 7, 2, 8)
    documents = find_documents(torch.tensor([[0, 1, 2, 0, 1, 2, 3]]))
    out, _ = attend(q, k, v, documents, Scores(0.25, window=2))
    for query, keys in enumerate([[0], [0, 1], [1, 2], [3], [3, 4], [4, 5], [5, 6]]):
        weights = torch.einsum("hd,khd->hk", q[0, query], k[0, keys]).mul(0.25).softmax(-1)
        torch.testing.assert_close(out[0, query], torch.einsum("hk,khd->hd", weights, v[0, keys]))


def test_a_window_that_no_document_fills_is_none() -> None:
    assert Scores(1.0, window=5).reach(5) == Scores(1.0)
    assert Scores(1.0, window=5).reach(6) == Scores(1.0, window=5)
    assert seen(2, 4, 2, torch.device("cpu")).tolist() == [
        [False, True, True, False],
        [False, False, True, True],
    ]
