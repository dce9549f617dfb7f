#![allow(unsafe_code, reason = "calls the gemm crate, which takes raw pointers")]
//! `f32` matrix products through the `gemm` crate.

use ::gemm::Parallelism;

use crate::parallel::{self, Shared, check_len};
use crate::team;

/// Multiply-adds below which one thread is faster: about 20 µs of work, ten times what waking a
/// second thread costs.
pub const PARALLEL_WORK: usize = 1 << 20;

/// Pieces of one product at most, and rows or columns that a piece is a multiple of.
const PIECES: usize = 16;
const PIECE_STEP: usize = 48;

/// A matrix in a slice, with any strides.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Element `(r, c)` is `data[r·row_stride + c·col_stride]`. A stride of 0 repeats.
    ///
    /// # Panics
    /// When the last element lies outside `data`.
    #[must_use]
    pub fn strided(
        data: &'a [f32],
        [rows, cols]: [usize; 2],
        [row_stride, col_stride]: [usize; 2],
    ) -> Self {
        if rows > 0 && cols > 0 {
            let last = row_stride
                .checked_mul(rows - 1)
                .zip(col_stride.checked_mul(cols - 1))
                .and_then(|(row, col)| row.checked_add(col));
            assert!(
                last.is_some_and(|last| last < data.len()),
                "matrix [{rows}, {cols}] with strides [{row_stride}, {col_stride}] \
                 does not fit into {} elements",
                data.len()
            );
        }
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// Rows one after another.
    ///
    /// # Panics
    /// When `data` does not have `rows·cols` elements.
    #[must_use]
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        check_len("row-major matrix", data.len(), rows * cols);
        Self::strided(data, [rows, cols], [cols, 1])
    }

    /// The same elements, rows and columns exchanged; nothing is copied.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// The rows from `start`, at most `count`.
    pub(crate) fn row_range(self, start: usize, count: usize) -> Self {
        let rows = count.min(self.rows - start);
        let skipped = (start * self.row_stride).min(self.data.len());
        Self::strided(&self.data[skipped..], [rows, self.cols], [self.row_stride, self.col_stride])
    }

    /// The columns from `start`, at most `count`.
    pub(crate) fn column_range(self, start: usize, count: usize) -> Self {
        self.transposed().row_range(start, count).transposed()
    }
}

/// What happens to the old content of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is replaced, and not read.
    Overwrite,
    /// The product is added to it.
    Accumulate,
}

/// `c = a·b`, or `c += a·b`.
///
/// Runs on many threads when large. The instruction set is the `gemm` crate's choice.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, any strides; `c`: `[m, n]`, row-major.
///
/// # Panics
/// When the inner dimensions differ or `c` does not have `m·n` elements.
pub fn gemm(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], write: Write) {
    let work = a.rows.saturating_mul(a.cols).saturating_mul(b.cols);
    if work < PARALLEL_WORK {
        multiply(a, b, c, write, Parallelism::None);
    } else if team::is_inside() {
        multiply_pieces(a, b, c, write);
    } else {
        multiply(a, b, c, write, Parallelism::Rayon(0));
    }
}

/// `a·b` in new memory, which is not written before the product is: zeros first cost training a
/// twentieth of its time.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, any strides; the result: `[m, n]`, row-major.
///
/// # Panics
/// When the inner dimensions differ.
pub fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    check_len("product: rows of b", b.rows, k);
    let len = m * n;
    if len == 0 || k == 0 || team::is_inside() {
        let mut c = vec![0.0; len];
        gemm(a, b, &mut c, Write::Overwrite);
        return c;
    }
    let few = m.saturating_mul(n).saturating_mul(k) < PARALLEL_WORK;
    let parallelism = if few { Parallelism::None } else { Parallelism::Rayon(0) };
    let mut c: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: b.rows == k > 0 was checked above, and the memory is c's own, with room for [m, n] in
    // rows n apart. The product writes every element and reads none, so all are initialized.
    unsafe {
        multiply_at(a, b, c.as_mut_ptr(), n, Write::Overwrite, parallelism);
        c.set_len(len);
    }
    c
}

/// [`gemm`] in pieces along the longer side of the result, for teams, which the `gemm` crate does
/// not know.
fn multiply_pieces(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], write: Write) {
    let (m, n) = (a.rows, b.cols);
    check_len("gemm: c", c.len(), m * n);
    let side = m.max(n);
    let step = side.div_ceil(PIECES).next_multiple_of(PIECE_STEP);
    let shared = Shared::new(c);
    parallel::for_each(side.div_ceil(step), |piece| {
        let first = piece * step;
        let (a, b, start) = if m >= n {
            (a.row_range(first, step), b, first * n)
        } else {
            (a, b.column_range(first, step), first)
        };
        // SAFETY: the piece is a range of rows or columns of c, whose length was checked; pieces
        // are disjoint and c is borrowed until all are done.
        unsafe { gemm_into(a, b, shared, start, n, write) };
    });
}

/// [`gemm`] with a result in rows `row_stride` apart from element `start` of `c` on, on this
/// thread.
///
/// # Safety
/// Every element `start + r·row_stride + 0..n`, `r < m`, lies in the slice behind `c`, whose
/// borrow is alive, and nothing else accesses these elements meanwhile.
pub(crate) unsafe fn gemm_into(
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: Shared<f32>,
    start: usize,
    row_stride: usize,
    write: Write,
) {
    check_len("gemm: rows of b", b.rows, a.cols);
    // SAFETY: the result is the caller's promise; the inner dimensions were checked above.
    unsafe {
        let c = c.at(start);
        multiply_at(a, b, c, row_stride, write, Parallelism::None);
    }
}

fn multiply(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], write: Write, parallelism: Parallelism) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    check_len("gemm: rows of b", b.rows, k);
    check_len("gemm: c", c.len(), m * n);
    if c.is_empty() {
        return;
    }
    if k == 0 {
        if write == Write::Overwrite {
            c.fill(0.0);
        }
        return;
    }
    // SAFETY: b.rows == k and c.len() == m·n were checked above; c is borrowed uniquely.
    unsafe { multiply_at(a, b, c.as_mut_ptr(), n, write, parallelism) }
}

/// # Safety
/// `b.rows == a.cols > 0`, and `c` is the start of `[a.rows, b.cols]` elements in rows
/// `row_stride` apart that nothing else accesses meanwhile.
unsafe fn multiply_at(
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: *mut f32,
    row_stride: usize,
    write: Write,
    parallelism: Parallelism,
) {
    let stride = |stride: usize| isize::try_from(stride).expect("strides of a slice fit isize");
    // SAFETY: `Matrix::strided` checked that every element of a [m, k] and b [k, n] lies in its
    // slice; the rest is the caller's promise.
    unsafe {
        ::gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            c,
            1,
            stride(row_stride),
            write == Write::Accumulate,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Equally shaped matrices in one slice.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// All matrices.
    pub data: &'a [f32],
    /// Rows and columns of each.
    pub shape: [usize; 2],
    /// Row and column stride of each.
    pub strides: [usize; 2],
    /// Where each matrix starts in `data`.
    pub offsets: &'a [usize],
}

impl<'a> Batch<'a> {
    fn matrix(&self, index: usize) -> Matrix<'a> {
        let start = self.offsets[index].min(self.data.len());
        Matrix::strided(&self.data[start..], self.shape, self.strides)
    }
}

/// `c[i] = a[i]·b[i]`, or `c[i] += a[i]·b[i]`, for every matrix of the batch.
///
/// # Shapes
/// `a`: `[m, k]` and `b`: `[k, n]`, as many offsets each as there are products; `c`:
/// `[products, m, n]`, row-major.
///
/// # Panics
/// When the numbers of matrices or the inner dimensions differ, a matrix reaches out of its slice,
/// or `c` has another length.
pub fn batched_gemm(a: &Batch<'_>, b: &Batch<'_>, c: &mut [f32], write: Write) {
    let products = a.offsets.len();
    check_len("batched_gemm: matrices of b", b.offsets.len(), products);
    let ([m, k], [_, n]) = (a.shape, b.shape);
    check_len("batched_gemm: c", c.len(), products * m * n);
    if c.is_empty() {
        return;
    }
    if products == 1 {
        gemm(a.matrix(0), b.matrix(0), c, write);
        return;
    }
    let one = |index: usize, c: &mut [f32]| {
        multiply(a.matrix(index), b.matrix(index), c, write, Parallelism::None);
    };
    let work = m.saturating_mul(n).saturating_mul(k.max(1));
    let few = work.saturating_mul(products) < PARALLEL_WORK;
    let at_once = if few { products } else { (PARALLEL_WORK / 4 / work).max(1) };
    parallel::for_each_row(c, m * n, at_once, one);
}
