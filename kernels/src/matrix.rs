#![allow(unsafe_code, reason = "results are written before they are read, by many threads")]
//! `f32` products of matrices with any strides.

use crate::float::{Rows, product as multiply_into};
use crate::parallel::{self, Shared, check_len};
use crate::tier::Cpu;

/// Multiply-adds below which one thread is faster: about 20 µs of work, ten times what waking a
/// second thread costs.
pub const PARALLEL_WORK: usize = 1 << 20;

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

    /// Element `(row, col)`.
    pub(crate) fn element(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// Itself, where the elements of a row lie one after another, and there are some.
    pub(crate) fn as_rows(&self) -> Option<Rows<'a>> {
        let dense = self.cols == 1 || self.col_stride == 1 && self.cols > 0;
        dense.then(|| Rows::new(self.data, self.rows, self.cols, self.row_stride))
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

/// `c = a·b`, or `c += a·b`, each element one chain of fused multiply-adds over k: a CPU that fuses
/// gives the same bits at every tier, with any number of threads.
///
/// Runs on many threads when large.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, any strides; `c`: `[m, n]`, row-major.
///
/// # Panics
/// When the inner dimensions differ or `c` does not have `m·n` elements.
pub fn gemm(cpu: Cpu, a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], write: Write) {
    check_len("gemm: rows of b", b.rows, a.cols);
    check_len("gemm: c", c.len(), a.rows * b.cols);
    if a.cols > 0 {
        // SAFETY: b.rows == a.cols > 0 and the length of c were checked; c is borrowed uniquely.
        unsafe { multiply_into(cpu, a, b, Shared::new(c), write) };
    } else if write == Write::Overwrite {
        c.fill(0.0);
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
pub fn product(cpu: Cpu, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    check_len("product: rows of b", b.rows, a.cols);
    let len = a.rows * b.cols;
    if a.cols == 0 {
        return vec![0.0; len];
    }
    let mut c: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: b.rows == a.cols > 0 was checked above, and the memory is c's own, with room for all
    // elements. The product writes every one and reads none before, so all are initialized.
    unsafe {
        multiply_into(cpu, a, b, Shared::uninitialized(&mut c), Write::Overwrite);
        c.set_len(len);
    }
    c
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
pub fn batched_gemm(cpu: Cpu, a: &Batch<'_>, b: &Batch<'_>, c: &mut [f32], write: Write) {
    let products = a.offsets.len();
    check_len("batched_gemm: matrices of b", b.offsets.len(), products);
    let ([m, k], [_, n]) = (a.shape, b.shape);
    check_len("batched_gemm: c", c.len(), products * m * n);
    if c.is_empty() {
        return;
    }
    if products == 1 {
        gemm(cpu, a.matrix(0), b.matrix(0), c, write);
        return;
    }
    let one = |index: usize, c: &mut [f32]| gemm(cpu, a.matrix(index), b.matrix(index), c, write);
    let work = m.saturating_mul(n).saturating_mul(k.max(1));
    let few = work.saturating_mul(products) < PARALLEL_WORK;
    let at_once = if few { products } else { (PARALLEL_WORK / 4 / work).max(1) };
    parallel::for_each_row(c, m * n, at_once, one);
}
