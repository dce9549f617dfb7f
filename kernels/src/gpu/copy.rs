//! Elements that move: slices, transpositions, repetitions.

use cubecl::prelude::*;

use super::{Buffer, Gpu};

/// Most dimensions of a [`Strided`].
const MOST_DIMS: usize = 4;

/// Where the elements of a result of at most four dimensions lie in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Sizes of the result, outermost first, after ones.
    shape: [usize; MOST_DIMS],
    /// Elements from one index to the next in the source; 0 repeats.
    strides: [usize; MOST_DIMS],
    /// Where the first lies.
    start: usize,
}

impl Strided {
    /// # Panics
    /// When there are more than four dimensions, or not as many strides.
    pub fn new(shape: &[usize], strides: &[usize], start: usize) -> Self {
        assert_eq!(shape.len(), strides.len(), "expected a stride for each dimension");
        let missing = MOST_DIMS.checked_sub(shape.len()).expect("expected at most 4 dimensions");
        let mut all = Self { shape: [1; MOST_DIMS], strides: [0; MOST_DIMS], start };
        all.shape[missing..].copy_from_slice(shape);
        all.strides[missing..].copy_from_slice(strides);
        all
    }

    /// `own`, row-major, repeated to `shape`.
    ///
    /// # Panics
    /// When it does not broadcast to it.
    pub fn broadcast(own: &[usize], shape: &[usize]) -> Self {
        let missing = shape.len().checked_sub(own.len()).expect("expected no more dimensions");
        let mut strides = vec![0; shape.len()];
        let mut stride = 1;
        for axis in (0..own.len()).rev() {
            let (size, wanted) = (own[axis], shape[missing + axis]);
            assert!(size == wanted || size == 1, "{own:?} does not broadcast to {shape:?}");
            strides[missing + axis] = if size == 1 { 0 } else { stride };
            stride *= size;
        }
        Self::new(shape, &strides, 0)
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// One more than the last element that is read.
    fn end(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        let last = self.shape.iter().zip(self.strides).map(|(size, stride)| (size - 1) * stride);
        self.start + last.sum::<usize>() + 1
    }
}

/// A [`Strided`] as a kernel takes it: sizes of the inner dimensions, all strides.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Walk {
    size1: usize,
    size2: usize,
    size3: usize,
    stride0: usize,
    stride1: usize,
    stride2: usize,
    stride3: usize,
    start: usize,
}

impl WalkLaunch {
    pub(super) fn of(Strided { shape, strides, start }: &Strided) -> Self {
        let [_, size1, size2, size3] = shape.map(|size| size.max(1));
        let [stride0, stride1, stride2, stride3] = *strides;
        Self::new(size1, size2, size3, stride0, stride1, stride2, stride3, *start)
    }
}

#[cube]
impl Walk {
    /// Where the element of this index lies.
    pub(super) fn place(&self, index: usize) -> usize {
        let rows = index / self.size3;
        let planes = rows / self.size2;
        let blocks = planes / self.size1;
        let inner = (index % self.size3) * self.stride3 + (rows % self.size2) * self.stride2;
        self.start + inner + (planes % self.size1) * self.stride1 + blocks * self.stride0
    }
}

#[cube(launch_unchecked)]
fn copy_kernel<T: Numeric>(x: &[T], y: &mut [T], walk: Walk) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        y[index] = x[walk.place(index)];
        index += step;
    }
}

/// `y[i] = x[strided(i)]`, elements of 1, 4 or 8 bytes.
///
/// # Shapes
/// `y` has as many elements as `strided`.
///
/// # Panics
/// When `strided` reaches out of `x`, or elements have another size.
pub fn copy(gpu: &Gpu, element_bytes: usize, x: &Buffer, strided: &Strided, y: &Buffer) {
    match element_bytes {
        1 => copy_elements::<i8>(gpu, x, strided, y),
        4 => copy_elements::<i32>(gpu, x, strided, y),
        8 => copy_elements::<i64>(gpu, x, strided, y),
        other => panic!("copy: expected elements of 1, 4 or 8 bytes, found {other}"),
    }
}

fn copy_elements<T: Numeric>(gpu: &Gpu, x: &Buffer, strided: &Strided, y: &Buffer) {
    let (elements, available) = (strided.elements(), x.len() / size_of::<T>());
    assert!(strided.end() <= available, "copy: {strided:?} reaches out of {available} elements");
    let y = y.argument::<T>("copy: y", elements);
    if elements == 0 {
        return;
    }
    let x = x.argument::<T>("copy: x", available);
    let (cubes, units) = gpu.spread(elements);
    let walk = WalkLaunch::of(strided);
    // SAFETY: the kernel stays below the length of y, and `strided` inside x.
    unsafe { copy_kernel::launch_unchecked::<T>(&gpu.client, cubes, units, x, y, walk) };
}

#[cube(launch_unchecked)]
fn part_kernel<T: Numeric>(x: &[T], y: &mut [T], width: usize, row: usize, start: usize) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < x.len() {
        y[index / width * row + start + index % width] = x[index];
        index += step;
    }
}

/// Writes rows of `width` elements into longer rows, from their element `start` on; elements of 1, 4
/// or 8 bytes.
///
/// # Shapes
/// `x`: `[rows, width]`; `y`: `[rows, row]`.
///
/// # Panics
/// When a length differs, or elements have another size.
pub fn copy_part(
    gpu: &Gpu,
    element_bytes: usize,
    x: &Buffer,
    width: usize,
    y: &Buffer,
    [row, start]: [usize; 2],
) {
    match element_bytes {
        1 => copy_part_of::<i8>(gpu, x, width, y, [row, start]),
        4 => copy_part_of::<i32>(gpu, x, width, y, [row, start]),
        8 => copy_part_of::<i64>(gpu, x, width, y, [row, start]),
        other => panic!("copy_part: expected elements of 1, 4 or 8 bytes, found {other}"),
    }
}

fn copy_part_of<T: Numeric>(
    gpu: &Gpu,
    x: &Buffer,
    width: usize,
    y: &Buffer,
    [row, start]: [usize; 2],
) {
    let elements = x.len() / size_of::<T>();
    assert!(start + width <= row, "copy_part: {start} and {width} reach out of {row}");
    let rows = elements.checked_div(width).unwrap_or(0);
    if rows == 0 {
        return;
    }
    let x = x.argument::<T>("copy_part: x", rows * width);
    let y = y.argument::<T>("copy_part: y", rows * row);
    let (cubes, units) = gpu.spread(elements);
    // SAFETY: the kernel stays below the length of x, whose rows lie in those of y.
    unsafe {
        part_kernel::launch_unchecked::<T>(&gpu.client, cubes, units, x, y, width, row, start)
    };
}
