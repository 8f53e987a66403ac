# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The host's share of training that NumPy is too slow for: sorted columns, gradients, rows on their way down a tree.

Everything here has the order and the roundings of xgboost on one thread.  Callers pass arrays that fit each other:
nothing is checked.
"""
from libc.math cimport copysign, expf, fabs, fabsf, fmaxf, fminf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

import numpy as np

cdef packed struct Entry:
    uint32_t row
    float value

cdef packed struct Row:
    float g
    float h
    int32_t node
    uint32_t reserved

cdef struct Split:
    int32_t feature
    float threshold
    int32_t child
    int32_t default_left

ENTRY = np.dtype([("row", "<u4"), ("value", "<f4")])
ROW = np.dtype([("g", "<f4"), ("h", "<f4"), ("node", "<i4"), ("reserved", "<u4")])


# --- sorted columns -------------------------------------------------------------------------------------------------
# Equal values stand in the order in which libstdc++'s std::sort leaves them, because xgboost sorts with it and sums
# in that order: median of three, unguarded partition, heap sort when that goes too deep, insertion at the end.
cdef enum:
    SHORT = 16
    BLOCK = 64

cdef inline void swap(Entry *a, Entry *b) noexcept nogil:
    cdef Entry t = a[0]
    a[0] = b[0]
    b[0] = t

cdef void sift(Entry *base, Py_ssize_t hole, Py_ssize_t count, Entry value) noexcept nogil:
    cdef Py_ssize_t top = hole, child = hole, parent
    while child < (count - 1) // 2:
        child = 2 * child + 2
        if base[child].value < base[child - 1].value:
            child -= 1
        base[hole] = base[child]
        hole = child
    if count % 2 == 0 and child == (count - 2) // 2:
        child = 2 * child + 1
        base[hole] = base[child]
        hole = child
    parent = (hole - 1) // 2
    while hole > top and base[parent].value < value.value:
        base[hole] = base[parent]
        hole = parent
        parent = (hole - 1) // 2
    base[hole] = value

cdef void heap_sort(Entry *base, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t at
    cdef Entry value
    for at in range((count - 2) // 2, -1, -1):
        sift(base, at, count, base[at])
    for at in range(count - 1, 0, -1):
        value = base[at]
        base[at] = base[0]
        sift(base, 0, at, value)

cdef void swap_blocks(Entry **begin, Entry **end, float pivot) noexcept nogil:
    """Swap the same pairs as the loop of `partition` does from here on, while there are whole blocks on both sides: who
    has to move is found without branches, half of which the processor would guess wrong."""
    cdef Entry *a = begin[0]
    cdef Entry *b = end[0]
    cdef uint8_t left[BLOCK]  # places of those that are not smaller, from `a` on, of which `done` have moved
    cdef uint8_t right[BLOCK]  # and of those that are not larger, from `b` backwards
    cdef int n_left = 0, n_right = 0, left_done = 0, right_done = 0, at, pairs
    while b - a >= 2 * BLOCK:
        if left_done == n_left:
            n_left = left_done = 0
            for at in range(BLOCK):
                left[n_left] = <uint8_t>at
                n_left += not a[at].value < pivot
        if right_done == n_right:
            n_right = right_done = 0
            for at in range(BLOCK):
                right[n_right] = <uint8_t>at
                n_right += not pivot < b[-1 - at].value
        pairs = min(n_left - left_done, n_right - right_done)
        for at in range(pairs):
            swap(a + left[left_done + at], b - 1 - right[right_done + at])
        left_done += pairs
        right_done += pairs
        if left_done == n_left:
            a += BLOCK
        if right_done == n_right:
            b -= BLOCK
    begin[0] = a + left[left_done] if left_done < n_left else a
    end[0] = b - right[right_done] if right_done < n_right else b

cdef Entry *partition(Entry *first, Entry *last) noexcept nogil:
    cdef Entry *a = first + 1
    cdef Entry *b = first + (last - first) // 2
    cdef Entry *c = last - 1
    cdef Entry *median
    if a.value < b.value:
        median = b if b.value < c.value else (c if a.value < c.value else a)
    else:
        median = a if a.value < c.value else (c if b.value < c.value else b)
    swap(first, median)
    cdef float pivot = first.value
    swap_blocks(&a, &last, pivot)
    while True:
        while a.value < pivot:
            a += 1
        last -= 1
        while pivot < last.value:
            last -= 1
        if not a < last:
            return a
        swap(a, last)
        a += 1

cdef void quick_sort(Entry *first, Entry *last, int depth) noexcept nogil:
    cdef Entry *cut
    while last - first > SHORT:
        if depth == 0:
            heap_sort(first, last - first)
            return
        depth -= 1
        cut = partition(first, last)
        quick_sort(cut, last, depth)
        last = cut

cdef void sort(Entry *base, Py_ssize_t count) noexcept nogil:
    cdef int depth = 0
    cdef Py_ssize_t at, to, left = count
    cdef Entry value
    while left > 1:
        left >>= 1
        depth += 2
    quick_sort(base, base + count, depth)
    for at in range(1, count):
        value = base[at]
        to = at
        if at < SHORT and value.value < base[0].value:  # the first ones have no smaller one to stop at
            while to > 0:
                base[to] = base[to - 1]
                to -= 1
        else:
            while value.value < base[to - 1].value:
                base[to] = base[to - 1]
                to -= 1
        base[to] = value


def sorted_columns(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] data, Py_ssize_t n_features):
    """Columns of a CSR matrix, each in ascending order of its values.

    Returns
    -------
    entries : ndarray of ENTRY, shape (nnz,)
    col_ptr : ndarray of uint64, shape (n_features + 1,)
    """
    cdef Py_ssize_t n_rows = indptr.shape[0] - 1, nnz = data.shape[0], row, at, feature
    entries_array = np.empty(nnz, ENTRY)
    col_array = np.zeros(n_features + 1, np.uint64)
    next_array = np.zeros(n_features, np.int64)
    cdef Entry[::1] entries = entries_array
    cdef uint64_t[::1] col_ptr = col_array
    cdef int64_t[::1] next_ = next_array
    if nnz == 0:
        return entries_array, col_array
    with nogil:
        for at in range(nnz):
            col_ptr[indices[at] + 1] += 1
        for feature in range(n_features):
            next_[feature] = <int64_t>col_ptr[feature]
            col_ptr[feature + 1] += col_ptr[feature]
        for row in range(n_rows):
            for at in range(indptr[row], indptr[row + 1]):
                feature = indices[at]
                entries[next_[feature]].row = <uint32_t>row
                entries[next_[feature]].value = data[at]
                next_[feature] += 1
        for feature in range(n_features):
            sort(&entries[0] + col_ptr[feature], <Py_ssize_t>(col_ptr[feature + 1] - col_ptr[feature]))
    return entries_array, col_array


def columns(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] data, Py_ssize_t n_features):
    """The values of a CSR matrix, column after column; NaN: missing.

    Returns
    -------
    ndarray of float32, shape (n_features, n_rows)
    """
    cdef Py_ssize_t row, at
    array = np.full((n_features, indptr.shape[0] - 1), np.nan, np.float32)
    cdef float[:, ::1] to = array
    with nogil:
        for row in range(to.shape[1]):
            for at in range(indptr[row], indptr[row + 1]):
                to[indices[at], row] = data[at]
    return array


def strictly_ascending(const int64_t[::1] indptr, const int32_t[::1] indices):
    """Whether the column numbers of each row ascend, none of them twice."""
    cdef Py_ssize_t row, at
    for row in range(indptr.shape[0] - 1):
        for at in range(indptr[row] + 1, indptr[row + 1]):
            if indices[at] <= indices[at - 1]:
                return False
    return True


# --- gradients ------------------------------------------------------------------------------------------------------
cdef inline float sigmoid(float x) noexcept nogil:
    return <float>1.0 / (expf(fminf(-x, <float>88.7)) + <float>1.0 + <float>1e-16)


def squared_gradients(const float[:, ::1] margin, const float[::1] label, const float[::1] weight,
                      float[:, :, ::1] out):
    """reg:squarederror.  `margin` (n, 1); `label`, `weight` (n,); `out` (1, n, 2) gradient and hessian."""
    cdef Py_ssize_t row
    with nogil:
        for row in range(label.shape[0]):
            out[0, row, 0] = (margin[row, 0] - label[row]) * weight[row]
            out[0, row, 1] = weight[row]


def logistic_gradients(const float[:, ::1] margin, const float[::1] label, const float[::1] weight,
                       float[:, :, ::1] out):
    """binary:logistic and its kin; shapes as for :func:`squared_gradients`."""
    cdef Py_ssize_t row
    cdef float p
    with nogil:
        for row in range(label.shape[0]):
            p = sigmoid(margin[row, 0])
            out[0, row, 0] = (p - label[row]) * weight[row]
            out[0, row, 1] = fmaxf(p * (<float>1.0 - p), <float>1e-16) * weight[row]


def softmax_gradients(const float[:, ::1] margin, const float[::1] label, const float[::1] weight,
                      float[:, :, ::1] out):
    """multi:softprob and multi:softmax.  `margin` (n, k); `out` (k, n, 2)."""
    cdef Py_ssize_t row, k, n_classes = margin.shape[1]
    cdef float top, p, h
    cdef double total
    with nogil:
        for row in range(label.shape[0]):
            top = <float>1.17549435e-38  # xgboost starts at the smallest positive float, not at the lowest one
            total = 0
            for k in range(n_classes):
                top = fmaxf(margin[row, k], top)
            for k in range(n_classes):
                total += expf(margin[row, k] - top)
            for k in range(n_classes):
                p = expf(margin[row, k] - top) / <float>total
                h = <float>2.0 * p * (<float>1.0 - p) * weight[row]
                out[k, row, 1] = fmaxf(h, <float>1e-16)
                if label[row] == k:
                    p = p - <float>1.0
                out[k, row, 0] = p * weight[row]


# --- weights and gains of nodes -------------------------------------------------------------------------------------
GAIN_FLOAT32, GAIN_FLOAT64, GAIN_OLD = range(3)  # xgboost up to 3.3, since 3.4, and 0.90


def node_values(const double[:, ::1] sums, int variant, float min_child_weight, float max_delta_step, float alpha,
                float lambda_, float[::1] weight, float[::1] gain):
    """Weight and gain of nodes, of which `sums` (n, 2) has gradient and hessian."""
    cdef Py_ssize_t node
    cdef double g, h, top, w
    cdef float w32, g32, h32
    for node in range(sums.shape[0]):
        g, h = sums[node, 0], sums[node, 1]
        top = g - alpha if g > alpha else (g + alpha if g < -alpha else 0.0)
        w = -top / (h + lambda_)
        if variant == 2:
            w = <float>w
        if max_delta_step != 0 and fabs(w) > max_delta_step:
            w = copysign(max_delta_step, w)
        if variant != 2 and (h <= 0 or (variant == 0 and h < min_child_weight)):
            w = 0
        w32 = <float>w
        weight[node] = w32
        if variant == 2:
            gain[node] = -<float>(w32 * (2.0 * g + h * w32 + lambda_ * w32) + 2.0 * alpha * fabsf(w32))
        elif h <= 0:
            gain[node] = 0
        elif variant == 1:
            gain[node] = <float>-(2.0 * g * w32 + (h + lambda_) * (w32 * w32) + 2.0 * alpha * fabsf(w32))
        elif max_delta_step == 0:
            gain[node] = <float>(top * top) / <float>(h + lambda_)
        else:
            g32, h32 = <float>g, <float>h
            gain[node] = -(<float>2.0 * g32 * w32 + (h32 + lambda_) * (w32 * w32))


# --- rows on their way down -----------------------------------------------------------------------------------------
def begin_tree(const float[:, ::1] gradients, Row[::1] rows, int32_t[::1] work, double[:, ::1] sums):
    """Put all rows into the root: its gradients (n, 2) to `rows`; `sums` (1, 2) are the root's."""
    cdef Py_ssize_t row
    cdef double g = 0, h = 0
    with nogil:
        for row in range(rows.shape[0]):
            rows[row] = Row(gradients[row, 0], gradients[row, 1], 0, 0)
            work[row] = 0
            g += gradients[row, 0]
            h += gradients[row, 1]
        sums[0, 0] = g
        sums[0, 1] = h


cdef inline bint goes_left(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] data,
                           Py_ssize_t row, int32_t feature, int32_t n_features, float threshold,
                           bint default_left) noexcept nogil:
    cdef int64_t low = indptr[row], high = indptr[row + 1], middle
    if high - low == n_features:
        return data[low + feature] < threshold
    while low < high:
        middle = (low + high) >> 1
        if indices[middle] < feature:
            low = middle + 1
        else:
            high = middle
    if low < indptr[row + 1] and indices[low] == feature:
        return data[low] < threshold
    return default_left


def descend(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] data, int32_t n_features,
            const float[:, ::1] columns, Row[::1] rows, int32_t[::1] position, int32_t[::1] work,
            const int32_t[::1] feature, const float[::1] threshold, const uint8_t[::1] default_left,
            const int32_t[::1] child, int32_t first, double[:, ::1] sums):
    """Send each row of a level to its child, and sum the children's gradients in the order of the rows.

    Parameters
    ----------
    indptr, indices, data
        The matrix, CSR; column numbers ascend in each row.
    columns : ndarray, or None
        The same as :func:`columns` makes it: a level touches few columns, but a part of every row.
    rows, position, work
        Of each row: what the board reads, the leaf that it is in (a node of the tree), its node in the level (-1: it is
        in a leaf).
    feature, threshold, default_left
        Of each node of the level.
    child : ndarray
        Place of each node's left child in the next level, the right one follows; -1: the node became a leaf.
    first : int
        Number of the level's first node in the tree.
    sums : ndarray, shape (next level, 2)
        Zero; becomes the children's gradient and hessian.
    """
    cdef Py_ssize_t row, n_nodes = feature.shape[0], at
    cdef int32_t node, to
    cdef bint dense = columns is not None, left
    cdef float value
    cdef Split split
    cdef double *to_sum
    cdef Split *splits = <Split *>malloc(max(n_nodes, 1) * sizeof(Split))
    if splits == NULL:
        raise MemoryError()
    with nogil:
        for at in range(n_nodes):
            splits[at] = Split(feature[at], threshold[at], child[at], default_left[at])
        for row in range(rows.shape[0]):
            node = work[row]
            if node < 0:
                continue
            split = splits[node]
            to = split.child
            if to >= 0:
                if dense:  # no branch on the value, half of them would be wrong
                    value = columns[split.feature, row]
                    left = (value < split.threshold) | (split.default_left & (value != value))
                else:
                    left = goes_left(indptr, indices, data, row, split.feature, n_features, split.threshold,
                                     split.default_left)
                to += 1 - left
                to_sum = &sums[to, 0]
                to_sum[0] += rows[row].g
                to_sum[1] += rows[row].h
            else:
                position[row] = first + node
            work[row] = to
            rows[row].node = to
    free(splits)


def end_tree(const int32_t[::1] work, int32_t first, int32_t[::1] position):
    """Give all rows that are in the last level, whose first node is `first`, their leaf."""
    cdef Py_ssize_t row
    with nogil:
        for row in range(work.shape[0]):
            if work[row] >= 0:
                position[row] = first + work[row]


def show_page(const int32_t[::1] work, Row[::1] rows, int32_t first, int32_t count):
    """Let the board see the nodes first .. first + count - 1 of a level only, numbered from 0."""
    cdef Py_ssize_t row
    cdef int32_t node
    with nogil:
        for row in range(rows.shape[0]):
            node = work[row] - first
            rows[row].node = node if 0 <= node < count else -1


def add_leaves(const int32_t[::1] position, const float[::1] leaf, float[:, ::1] margin, Py_ssize_t column):
    """Add to each row's margin the value of the node that it is in."""
    cdef Py_ssize_t row
    with nogil:
        for row in range(position.shape[0]):
            margin[row, column] += leaf[position[row]]


def add_tree(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] data, int32_t n_features,
             const int32_t[::1] left, const int32_t[::1] right, const int32_t[::1] feature, const float[::1] value,
             const uint8_t[::1] default_left, float[:, ::1] margin, Py_ssize_t column):
    """Walk each row of a matrix down a tree, and add its leaf to its margin (`value`: threshold or leaf)."""
    cdef Py_ssize_t row
    cdef int32_t node
    with nogil:
        for row in range(margin.shape[0]):
            node = 0
            while left[node] >= 0:
                if goes_left(indptr, indices, data, row, feature[node], n_features, value[node], default_left[node]):
                    node = left[node]
                else:
                    node = right[node]
            margin[row, column] += value[node]


def float_sums(const Row[::1] rows, Py_ssize_t threads, double[:, ::1] sums):
    """Gradients of a level's nodes, summed in float32 as OpenMP's static schedule shares rows out to threads."""
    cdef Py_ssize_t row = 0, end = 0, thread, node, n = rows.shape[0]
    part_array = np.empty((sums.shape[0], 2), np.float32)
    total_array = np.zeros((sums.shape[0], 2), np.float32)
    cdef float[:, ::1] part = part_array, total = total_array
    with nogil:
        for thread in range(threads):
            part[:, :] = 0
            end += n // threads + (thread < n % threads)
            while row < end:
                node = rows[row].node
                if node >= 0:
                    part[node, 0] += rows[row].g
                    part[node, 1] += rows[row].h
                row += 1
            for node in range(sums.shape[0]):
                total[node, 0] += part[node, 0]
                total[node, 1] += part[node, 1]
        for node in range(sums.shape[0]):
            sums[node, 0] = total[node, 0]
            sums[node, 1] = total[node, 1]
