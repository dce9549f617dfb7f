#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Windows in single channels, in integers: the bytes of four rows are interleaved, so that one product of
//! four bytes with four weights sums a column of a window, for 16 channels. A column is interleaved once
//! for all windows that share it.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::cell::Cell;

use super::integer_depthwise::BLOCK;
use crate::parallel::{check_len, check_shape};
use crate::scratch::lend;
use crate::tier::{Cpu, Tier};
use crate::wide::{Rounder, Rounding};
use crate::window::Slide;

/// Rows that are interleaved.
const ROWS: usize = 4;

/// Registers with the sums of a block.
const REGISTERS: usize = 4;

/// Their lanes.
const LANES: usize = 16;

/// Windows, in each part of a register, whose columns are interleaved at a time: these stay in the first
/// cache.
const MOST_WINDOWS: usize = 28;

/// Windows whose sums are in registers at once: each weight is loaded for all. Behind the last ones there is
/// room for as many.
const WINDOWS: usize = 4;

/// Four bytes of each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
struct Line([i8; LANES * ROWS]);

impl Default for Line {
    fn default() -> Self {
        Self([0; LANES * ROWS])
    }
}

thread_local! {
    static COLUMNS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Parts of a register: a block of few channels leaves room for several windows.
const fn parts(count: usize) -> usize {
    match count {
        0..=16 => 4,
        17..=32 => 2,
        _ => 1,
    }
}

/// The place in a block of lane `lane` of register `register`, once bytes were interleaved.
const fn place_of(register: usize, lane: usize) -> usize {
    lane / 4 * 16 + register * 4 + lane % 4
}

/// Filters for blocks of [`BLOCK`] channels, those of the last one in each part of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    channels: usize,
    kernel: [usize; 2],
    /// `[blocks, kernel[1], kernel[0] in fours, REGISTERS]`
    lines: Vec<Line>,
    /// The sums of the weights, `[blocks]`.
    sums: Vec<[[i32; LANES]; REGISTERS]>,
}

impl Blocks {
    /// # Shapes
    /// `weights`: `[kernel[0], kernel[1], channels]`
    pub(super) fn new(weights: &[i8], channels: usize, kernel: [usize; 2]) -> Self {
        check_shape("blocks: weights", weights.len(), &[kernel[0], kernel[1], channels]);
        let (mut lines, mut sums) = (Vec::new(), Vec::new());
        for first in (0..channels).step_by(BLOCK) {
            let count = BLOCK.min(channels - first);
            let part = BLOCK / parts(count);
            let mut sum = [[0; LANES]; REGISTERS];
            for (column, group) in (0..kernel[1])
                .flat_map(|column| (0..kernel[0].div_ceil(ROWS)).map(move |group| (column, group)))
            {
                for register in 0..REGISTERS {
                    let weight = |index: usize| {
                        let channel = place_of(register, index / ROWS) % part;
                        let row = group * ROWS + index % ROWS;
                        let is_there = row < kernel[0] && channel < count;
                        let place = (row * kernel[1] + column) * channels + first + channel;
                        if is_there { weights[place] } else { 0 }
                    };
                    let line: [i8; LANES * ROWS] = from_fn(weight);
                    for (sum, four) in sum[register].iter_mut().zip(line.as_chunks::<ROWS>().0) {
                        *sum += four.iter().map(|&weight| i32::from(weight)).sum::<i32>();
                    }
                    lines.push(Line(line));
                }
            }
            sums.push(sum);
        }
        Self { channels, kernel, lines, sums }
    }

    pub(super) const fn size_bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
            + self.sums.len() * size_of::<[[i32; LANES]; REGISTERS]>()
    }

    /// Fours of rows.
    const fn groups(&self) -> usize {
        self.kernel[0].div_ceil(ROWS)
    }

    /// Lines of a block.
    const fn block_len(&self) -> usize {
        self.kernel[1] * self.groups() * REGISTERS
    }
}

/// Where sums go.
pub(super) enum Results<'a> {
    /// Scaled, with the bias added, rounded: `[columns.output, channels]`.
    Rounded { y: &'a mut [i8], rounding: Rounding, scales: &'a [f32], bias: Option<&'a [f32]> },
    /// To what takes the place of the first in the row of the output, its channel, and sums of channels.
    Sums(&'a mut dyn FnMut(usize, usize, &[i32])),
}

/// A row of the output of an image.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) windows: &'a [Slide; 2],
    /// `[rows.input, columns.input, channels]`
    pub(super) x: &'a [i8],
    pub(super) zero_point: i8,
    pub(super) row: usize,
}

impl Row<'_> {
    /// # Panics
    /// When a size differs, or the tier has no AVX-512.
    pub(super) fn fill(&self, cpu: Cpu, blocks: &Blocks, mut results: Results<'_>) {
        let [rows, columns] = self.windows;
        let Blocks { channels, kernel, .. } = *blocks;
        assert!(cpu.tier() >= Tier::Avx512, "expected AVX-512, found {cpu:?}");
        assert_eq!([rows.kernel, columns.kernel], kernel, "depthwise: kernel");
        check_shape("depthwise: x", self.x.len(), &[rows.input, columns.input, channels]);
        if let Results::Rounded { y, scales, bias, .. } = &results {
            check_shape("depthwise: y", y.len(), &[columns.output, channels]);
            check_len("depthwise: scales", scales.len(), channels);
            check_len("depthwise: bias", bias.map_or(channels, <[f32]>::len), channels);
        }
        // Columns that windows share are kept once.
        let shares = columns.dilation == 1 && columns.stride < columns.kernel;
        for first in (0..channels).step_by(BLOCK) {
            let count = BLOCK.min(channels - first);
            let lines = &blocks.lines[first / BLOCK * blocks.block_len()..][..blocks.block_len()];
            let sums = &blocks.sums[first / BLOCK];
            let block = Block { row: *self, channels, first, count, shares, lines, sums };
            // SAFETY: the tier has AVX-512, and its VNNI where that is said; the sizes were checked.
            unsafe {
                match parts(count) {
                    4 => block.run::<4>(cpu, &mut results),
                    2 => block.run::<2>(cpu, &mut results),
                    _ => block.run::<1>(cpu, &mut results),
                }
            }
        }
    }
}

/// Some channels of a row.
struct Block<'a> {
    row: Row<'a>,
    channels: usize,
    /// The first of them, and how many there are.
    first: usize,
    count: usize,
    /// Whether neighbouring windows find their columns in the same place.
    shares: bool,
    lines: &'a [Line],
    sums: &'a [[i32; LANES]; REGISTERS],
}

/// Windows from `first` on: in each part of a register so many.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    windows: usize,
}

/// What is made of sums before they are written, in registers.
#[derive(Clone, Copy)]
struct Scaling {
    scales: [__m512; REGISTERS],
    bias: [__m512; REGISTERS],
    rounder: Rounder,
}

impl Block<'_> {
    /// # Safety
    /// There is VNNI where the tier says so, and [`Row::fill`] checked the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run<const PARTS: usize>(&self, cpu: Cpu, results: &mut Results<'_>) {
        let output = self.row.windows[1].output;
        let scaling = match results {
            Results::Rounded { rounding, scales, bias, .. } => Some(Scaling {
                scales: self.spread::<PARTS>(scales),
                bias: bias
                    .map_or([_mm512_setzero_ps(); REGISTERS], |bias| self.spread::<PARTS>(bias)),
                rounder: rounding.rounder(),
            }),
            Results::Sums(_) => None,
        };
        let most = output.div_ceil(PARTS).min(MOST_WINDOWS);
        lend(&COLUMNS, self.lines_for(most), |columns| {
            for first in (0..output).step_by(most * PARTS) {
                let windows = (output - first).div_ceil(PARTS).min(most);
                let run = Run { first, windows };
                // SAFETY: the caller's promise.
                unsafe {
                    self.interleave::<PARTS>(run, columns);
                    if cpu.tier() >= Tier::Vnni {
                        self.windows_vnni::<PARTS>(run, columns, scaling.as_ref(), results);
                    } else {
                        self.windows_avx512::<PARTS>(run, columns, scaling.as_ref(), results);
                    }
                }
            }
        });
    }

    /// Lines that so many windows read, and those that are multiplied with them.
    const fn lines_for(&self, windows: usize) -> usize {
        self.columns(windows.next_multiple_of(WINDOWS)) * self.groups() * REGISTERS
    }

    const fn groups(&self) -> usize {
        self.row.windows[0].kernel.div_ceil(ROWS)
    }

    /// Columns that so many neighbouring windows read.
    const fn columns(&self, windows: usize) -> usize {
        let kernel = self.row.windows[1].kernel;
        if self.shares { (windows - 1) * self.step() + kernel } else { windows * kernel }
    }

    /// From the columns of a window to those of the next.
    const fn step(&self) -> usize {
        let columns = &self.row.windows[1];
        if self.shares { columns.stride } else { columns.kernel }
    }

    /// Numbers of these channels as registers have them.
    #[target_feature(enable = "avx512f")]
    fn spread<const PARTS: usize>(&self, numbers: &[f32]) -> [__m512; REGISTERS] {
        let mut all = [0.0f32; BLOCK];
        for part in all.chunks_exact_mut(BLOCK / PARTS) {
            part[..self.count].copy_from_slice(&numbers[self.first..][..self.count]);
        }
        // SAFETY: 16 elements from each sixteenth on are some of the 64.
        let [a, b, c, d] = from_fn(|i| unsafe { _mm512_loadu_ps(all.as_ptr().add(i * LANES)) });
        // Columns of a matrix of quarters.
        let low = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
        let high = [_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d)];
        [
            _mm512_shuffle_f32x4::<0x88>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0xdd>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0x88>(high[0], high[1]),
            _mm512_shuffle_f32x4::<0xdd>(high[0], high[1]),
        ]
    }

    /// Writes `x + 128` of the columns of a run, four rows interleaved; in padding x is the zero point.
    ///
    /// # Safety
    /// [`Row::fill`] checked the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn interleave<const PARTS: usize>(&self, run: Run, to: &mut [Line]) {
        let [rows, columns] = self.row.windows;
        let groups = self.groups();
        assert!(to.len() >= self.lines_for(run.windows), "depthwise: columns");
        let (windows, entries) = if self.shares {
            (1, self.columns(run.windows))
        } else {
            (run.windows, columns.kernel)
        };
        // Windows behind the last read what the last one does, or padding, and are not written.
        let mut starts = [0; PARTS];
        for (part, start) in starts.iter_mut().enumerate() {
            let window = (run.first + part * run.windows).min(columns.output - 1);
            *start = (window * columns.stride).wrapping_sub(columns.before);
        }
        for group in 0..groups {
            let lines: [Option<*const i8>; ROWS] = from_fn(|row| {
                let down = group * ROWS + row;
                let line = rows.place(self.row.row, down).filter(|_| down < rows.kernel)?;
                let place = line * columns.input * self.channels + self.first;
                Some(self.row.x.as_ptr().wrapping_add(place))
            });
            for window in 0..windows {
                for entry in 0..entries {
                    let shift = window * columns.stride + entry * columns.dilation;
                    let pixels = Pixels::<PARTS>::new(self, &starts, shift);
                    // SAFETY: the caller's promise; `place` gives lines of the image, and the pixels lie
                    // in them.
                    let fours = unsafe {
                        interleaved(
                            pixels.bytes(lines[0]),
                            pixels.bytes(lines[1]),
                            pixels.bytes(lines[2]),
                            pixels.bytes(lines[3]),
                        )
                    };
                    let column = window * entries + entry;
                    let to = &mut to[(column * groups + group) * REGISTERS..][..REGISTERS];
                    for (to, four) in to.iter_mut().zip(fours) {
                        // SAFETY: a line has the 64 bytes that are written, and their alignment.
                        unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), four) };
                    }
                }
            }
        }
    }

    /// What the sums start from: how much is too much in each product.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn start(&self) -> [__m512i; REGISTERS] {
        let zero = _mm512_set1_epi32(-(i32::from(self.row.zero_point) + 128));
        self.sums.each_ref().map(|sums| {
            // SAFETY: a register's sums have the 64 bytes that are read.
            let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
            _mm512_mullo_epi32(zero, sums)
        })
    }

    /// Writes what is made of the sums of one window in each part of a register.
    ///
    /// # Safety
    /// [`Row::fill`] checked the sizes, y among them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn write<const PARTS: usize>(
        &self,
        (run, window): (Run, usize),
        values: __m512i,
        y: *mut i8,
    ) {
        let output = self.row.windows[1].output;
        let mask = first_bytes(self.count);
        for part in 0..PARTS {
            let window = run.first + part * run.windows + window;
            if window >= output {
                return;
            }
            let y = y.wrapping_add(window * self.channels + self.first);
            // SAFETY: the caller's promise: the window is one of the output, and no bytes but its channels
            // are written, for which a part has room.
            unsafe {
                match (PARTS, part) {
                    (1, _) if self.count == BLOCK => _mm512_storeu_si512(y.cast(), values),
                    (1, _) => _mm512_mask_storeu_epi8(y, mask, values),
                    (2, 0) => store_half(y, mask, _mm512_castsi512_si256(values)),
                    (2, _) => store_half(y, mask, _mm512_extracti64x4_epi64::<1>(values)),
                    (_, 0) => store_quarter(y, mask, _mm512_castsi512_si128(values)),
                    (_, 1) => store_quarter(y, mask, _mm512_extracti32x4_epi32::<1>(values)),
                    (_, 2) => store_quarter(y, mask, _mm512_extracti32x4_epi32::<2>(values)),
                    (_, _) => store_quarter(y, mask, _mm512_extracti32x4_epi32::<3>(values)),
                }
            }
        }
    }

    /// Gives the sums of one window in each part of a register away.
    #[target_feature(enable = "avx512f")]
    fn give<const PARTS: usize>(
        &self,
        (run, window): (Run, usize),
        totals: [__m512i; REGISTERS],
        take: &mut dyn FnMut(usize, usize, &[i32]),
    ) {
        let mut sums = [0; BLOCK];
        for (register, total) in totals.into_iter().enumerate() {
            let mut lanes = [0; LANES];
            // SAFETY: the array has the 64 bytes that are written.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), total) };
            for (lane, total) in lanes.into_iter().enumerate() {
                sums[place_of(register, lane)] = total;
            }
        }
        for (part, sums) in sums.chunks_exact(BLOCK / PARTS).enumerate() {
            let window = run.first + part * run.windows + window;
            if window < self.row.windows[1].output {
                take(window * self.channels + self.first, self.first, &sums[..self.count]);
            }
        }
    }
}

/// Some channels of pixels of a line, one pixel in each part of a register.
struct Pixels<const PARTS: usize> {
    /// Bytes from where the line starts.
    places: [usize; PARTS],
    /// Which bytes are read; none in padding.
    masks: [u64; PARTS],
    padding: __m512i,
}

impl<const PARTS: usize> Pixels<PARTS> {
    /// The pixels so far behind the starts.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(block: &Block<'_>, starts: &[usize; PARTS], shift: usize) -> Self {
        let mask = first_bytes(block.count);
        let (mut places, mut masks) = ([0; PARTS], [0; PARTS]);
        for part in 0..PARTS {
            let pixel = starts[part].wrapping_add(shift);
            let is_inside = pixel < block.row.windows[1].input;
            places[part] = pixel.wrapping_mul(block.channels);
            masks[part] = if is_inside { mask } else { 0 };
        }
        Self { places, masks, padding: _mm512_set1_epi8(block.row.zero_point) }
    }

    /// `x + 128` in a line, or in padding.
    ///
    /// # Safety
    /// The bytes of the masks can be read there; parts have room for them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn bytes(&self, line: Option<*const i8>) -> __m512i {
        let unsigned = _mm512_set1_epi8(i8::MIN);
        let Some(line) = line else { return _mm512_xor_si512(self.padding, unsigned) };
        // SAFETY: the caller's promise.
        let x = unsafe {
            match PARTS {
                4 => {
                    let x = _mm512_castsi128_si512(self.quarter(line, 0));
                    let x = _mm512_inserti32x4::<1>(x, self.quarter(line, 1));
                    let x = _mm512_inserti32x4::<2>(x, self.quarter(line, 2));
                    _mm512_inserti32x4::<3>(x, self.quarter(line, 3))
                }
                2 => {
                    let x = _mm512_castsi256_si512(self.half(line, 0));
                    _mm512_inserti64x4::<1>(x, self.half(line, 1))
                }
                _ => {
                    let place = line.wrapping_add(self.places[0]);
                    _mm512_mask_loadu_epi8(self.padding, self.masks[0], place)
                }
            }
        };
        _mm512_xor_si512(x, unsigned)
    }

    /// # Safety
    /// As for [`Self::bytes`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn half(&self, line: *const i8, part: usize) -> __m256i {
        let padding = _mm512_castsi512_si256(self.padding);
        let place = line.wrapping_add(self.places[part]);
        // SAFETY: the caller's promise.
        unsafe { _mm256_mask_loadu_epi8(padding, self.masks[part] as u32, place) }
    }

    /// # Safety
    /// As for [`Self::bytes`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn quarter(&self, line: *const i8, part: usize) -> __m128i {
        let padding = _mm512_castsi512_si128(self.padding);
        let place = line.wrapping_add(self.places[part]);
        // SAFETY: the caller's promise.
        unsafe { _mm_mask_loadu_epi8(padding, self.masks[part] as u16, place) }
    }
}

/// Four bytes of each lane, one of each row; [`place_of`] says which.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; REGISTERS] {
    let low = [_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d)];
    let high = [_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d)];
    [
        _mm512_unpacklo_epi16(low[0], low[1]),
        _mm512_unpackhi_epi16(low[0], low[1]),
        _mm512_unpacklo_epi16(high[0], high[1]),
        _mm512_unpackhi_epi16(high[0], high[1]),
    ]
}

impl Scaling {
    /// What is written for sums.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn rounded(&self, [a, b, c, d]: [__m512i; REGISTERS]) -> __m512i {
        let Self { scales, bias, rounder } = self;
        rounder.round_four([
            scaled(a, scales[0], bias[0]),
            scaled(b, scales[1], bias[1]),
            scaled(c, scales[2], bias[2]),
            scaled(d, scales[3], bias[3]),
        ])
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn scaled(sums: __m512i, scales: __m512, bias: __m512) -> __m512 {
    _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales), bias)
}

/// # Safety
/// The bytes of the mask, which are among the first 32, can be written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_half(y: *mut i8, mask: u64, values: __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u64::from(u32::MAX) {
            _mm256_storeu_si256(y.cast(), values);
        } else {
            _mm256_mask_storeu_epi8(y, mask as u32, values);
        }
    }
}

/// # Safety
/// The bytes of the mask, which are among the first 16, can be written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_quarter(y: *mut i8, mask: u64, values: __m128i) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u64::from(u16::MAX) {
            _mm_storeu_si128(y.cast(), values);
        } else {
            _mm_mask_storeu_epi8(y, mask as u16, values);
        }
    }
}

/// A mask of the first of 64 bytes.
const fn first_bytes(count: usize) -> u64 {
    if count < BLOCK { (1 << count) - 1 } else { u64::MAX }
}

/// Sums of windows with the instructions of a tier: `$dot` adds to sums the products of four bytes of x, which
/// are unsigned, with four weights.
macro_rules! windows {
    ($windows:ident, $several:ident, $features:literal, $dot:path) => {
        impl Block<'_> {
            /// The windows of a run, whose columns were interleaved.
            ///
            /// # Safety
            /// [`Row::fill`] checked the sizes.
            #[target_feature(enable = $features)]
            unsafe fn $windows<const PARTS: usize>(
                &self,
                run: Run,
                columns: &[Line],
                scaling: Option<&Scaling>,
                results: &mut Results<'_>,
            ) {
                let start = self.start();
                let step = self.step() * self.groups() * REGISTERS;
                for window in (0..run.windows).step_by(WINDOWS) {
                    let totals = self.$several(start, &columns[window * step..]);
                    for index in 0..WINDOWS.min(run.windows - window) {
                        let at = (run, window + index);
                        match (&mut *results, scaling) {
                            (Results::Rounded { y, .. }, Some(scaling)) => {
                                let values = scaling.rounded(totals[index]);
                                // SAFETY: the caller's promise.
                                unsafe { self.write::<PARTS>(at, values, y.as_mut_ptr()) };
                            }
                            (Results::Sums(take), _) => {
                                self.give::<PARTS>(at, totals[index], *take);
                            }
                            (Results::Rounded { .. }, None) => {
                                unreachable!("what is rounded is scaled")
                            }
                        }
                    }
                }
            }

            /// The sums of the first windows of these columns.
            #[inline]
            #[target_feature(enable = $features)]
            fn $several(
                &self,
                start: [__m512i; REGISTERS],
                columns: &[Line],
            ) -> [[__m512i; REGISTERS]; WINDOWS] {
                let step = self.step() * self.groups() * REGISTERS;
                let reached = (WINDOWS - 1) * step + self.lines.len();
                assert!(reached <= columns.len(), "depthwise: columns");
                let mut totals = [start; WINDOWS];
                for (index, weights) in self.lines.chunks_exact(REGISTERS).enumerate() {
                    for (register, weights) in weights.iter().enumerate() {
                        // SAFETY: a line has the 64 bytes that are read, and their alignment.
                        let weights = unsafe { _mm512_load_si512(weights.0.as_ptr().cast()) };
                        for (window, totals) in totals.iter_mut().enumerate() {
                            let place = window * step + index * REGISTERS + register;
                            // SAFETY: a window reads as many lines as the filters of a block have, and
                            // what windows reach was compared with the columns.
                            let x =
                                unsafe { _mm512_load_si512(columns.as_ptr().add(place).cast()) };
                            totals[register] = $dot(totals[register], x, weights);
                        }
                    }
                }
                totals
            }
        }
    };
}

windows!(
    windows_vnni,
    several_vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    _mm512_dpbusd_epi32
);
windows!(windows_avx512, several_avx512, "avx512f,avx512bw,avx512dq,avx512vl", products);

/// What `vpdpbusd` computes, by products of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn products(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
    let even = _mm512_madd_epi16(
        _mm512_and_si512(x, _mm512_set1_epi16(0xff)),
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(weights)),
    );
    let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(x), _mm512_srai_epi16::<8>(weights));
    _mm512_add_epi32(sums, _mm512_add_epi32(even, odd))
}
