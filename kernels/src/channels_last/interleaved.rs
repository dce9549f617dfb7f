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
use crate::wide::Rounding;
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

/// Windows whose sums are in registers at once: each weight is loaded for all.
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

/// Scale and bias as registers have them.
struct Scaling {
    scales: [__m512; REGISTERS],
    bias: [__m512; REGISTERS],
}

impl Block<'_> {
    /// # Safety
    /// There is VNNI where the tier says so, and [`Row::fill`] checked the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run<const PARTS: usize>(&self, cpu: Cpu, results: &mut Results<'_>) {
        let output = self.row.windows[1].output;
        let scaling = match results {
            Results::Rounded { scales, bias, .. } => Scaling {
                scales: self.spread::<PARTS>(scales),
                bias: bias
                    .map_or([_mm512_setzero_ps(); REGISTERS], |bias| self.spread::<PARTS>(bias)),
            },
            Results::Sums(_) => Scaling {
                scales: [_mm512_setzero_ps(); REGISTERS],
                bias: [_mm512_setzero_ps(); REGISTERS],
            },
        };
        let most = output.div_ceil(PARTS).min(MOST_WINDOWS);
        let len = self.columns(most) * self.groups() * REGISTERS;
        lend(&COLUMNS, len, |columns| {
            for first in (0..output).step_by(most * PARTS) {
                let windows = (output - first).div_ceil(PARTS).min(most);
                let run = Run { first, windows };
                let columns = &mut columns[..self.columns(windows) * self.groups() * REGISTERS];
                // SAFETY: the caller's promise.
                unsafe {
                    self.interleave::<PARTS>(run, columns);
                    if cpu.tier() >= Tier::Vnni {
                        self.windows_vnni::<PARTS>(run, columns, &scaling, results);
                    } else {
                        self.windows_avx512::<PARTS>(run, columns, &scaling, results);
                    }
                }
            }
        });
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
        let (groups, step) = (self.groups(), self.step());
        assert_eq!(to.len(), self.columns(run.windows) * groups * REGISTERS, "depthwise: columns");
        for group in 0..groups {
            let lines: [Option<usize>; ROWS] = from_fn(|row| {
                let down = group * ROWS + row;
                let place = rows.place(self.row.row, down).filter(|_| down < rows.kernel);
                place.map(|place| place * columns.input)
            });
            for (column, to) in to.chunks_exact_mut(groups * REGISTERS).enumerate() {
                let (window, entry) =
                    if self.shares { (0, column) } else { (column / step, column % step) };
                let pixels: [Option<usize>; PARTS] = from_fn(|part| {
                    // Windows behind the last are not written.
                    let window = run.first + part * run.windows + window;
                    columns.place(window.min(columns.output - 1), entry)
                });
                // SAFETY: the caller's promise; `place` gives rows and pixels of the image.
                let [a, b, c, d] = lines.map(|line| unsafe { self.bytes(line, pixels) });
                let [ab, cd] = [_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d)];
                let [above, cdve] = [_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d)];
                let fours = [
                    _mm512_unpacklo_epi16(ab, cd),
                    _mm512_unpackhi_epi16(ab, cd),
                    _mm512_unpacklo_epi16(above, cdve),
                    _mm512_unpackhi_epi16(above, cdve),
                ];
                for (to, four) in to[group * REGISTERS..][..REGISTERS].iter_mut().zip(fours) {
                    // SAFETY: a line has the 64 bytes that are written, and their alignment.
                    unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), four) };
                }
            }
        }
    }

    /// `x + 128` in these channels of pixels of a line, one in each part of a register.
    ///
    /// # Safety
    /// [`Row::fill`] checked the sizes; a line that there is starts at a pixel of the image, and pixels that
    /// there are lie in a line.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn bytes<const PARTS: usize>(
        &self,
        line: Option<usize>,
        pixels: [Option<usize>; PARTS],
    ) -> __m512i {
        let mask = first_bytes(self.count);
        let padding = self.row.zero_point;
        let place = |part: usize| -> Option<*const i8> {
            let place = (line? + pixels[part]?) * self.channels + self.first;
            Some(self.row.x.as_ptr().wrapping_add(place))
        };
        let quarter = |part: usize| match place(part) {
            // SAFETY: the caller's promise; no bytes but the channels are read.
            Some(place) => unsafe { _mm_maskz_loadu_epi8(mask as u16, place) },
            None => _mm_set1_epi8(padding),
        };
        let half = |part: usize| match place(part) {
            // SAFETY: as above.
            Some(place) => unsafe { _mm256_maskz_loadu_epi8(mask as u32, place) },
            None => _mm256_set1_epi8(padding),
        };
        let x = match PARTS {
            4 => {
                let x = _mm512_castsi128_si512(quarter(0));
                let x = _mm512_inserti32x4::<1>(x, quarter(1));
                let x = _mm512_inserti32x4::<2>(x, quarter(2));
                _mm512_inserti32x4::<3>(x, quarter(3))
            }
            2 => _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(0)), half(1)),
            _ => match place(0) {
                // SAFETY: as above.
                Some(place) => unsafe { _mm512_maskz_loadu_epi8(mask, place) },
                None => _mm512_set1_epi8(padding),
            },
        };
        _mm512_xor_si512(x, _mm512_set1_epi8(i8::MIN))
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

    /// Makes results of the sums of one window in each part of a register.
    ///
    /// # Safety
    /// [`Row::fill`] checked the sizes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn finish<const PARTS: usize>(
        &self,
        run: Run,
        window: usize,
        totals: [__m512i; REGISTERS],
        scaling: &Scaling,
        results: &mut Results<'_>,
    ) {
        let output = self.row.windows[1].output;
        let places = (0..PARTS).filter_map(|part| {
            let window = run.first + part * run.windows + window;
            (window < output).then(|| (part, window * self.channels + self.first))
        });
        match results {
            Results::Rounded { y, rounding, .. } => {
                let values = from_fn(|i| {
                    let value = _mm512_mul_ps(_mm512_cvtepi32_ps(totals[i]), scaling.scales[i]);
                    _mm512_add_ps(value, scaling.bias[i])
                });
                let rounded = rounding.round_four(values);
                let mask = first_bytes(self.count);
                for (part, place) in places {
                    let y = y.as_mut_ptr().wrapping_add(place);
                    // SAFETY: the caller's promise: the window is one of the output, and no bytes but its
                    // channels are written.
                    unsafe {
                        match (PARTS, part) {
                            (1, _) if self.count == BLOCK => _mm512_storeu_si512(y.cast(), rounded),
                            (1, _) => _mm512_mask_storeu_epi8(y, mask, rounded),
                            (2, 0) => store_half(y, mask, _mm512_castsi512_si256(rounded)),
                            (2, _) => store_half(y, mask, _mm512_extracti64x4_epi64::<1>(rounded)),
                            (_, 0) => store_quarter(y, mask, _mm512_castsi512_si128(rounded)),
                            (_, 1) => {
                                store_quarter(y, mask, _mm512_extracti32x4_epi32::<1>(rounded))
                            }
                            (_, 2) => {
                                store_quarter(y, mask, _mm512_extracti32x4_epi32::<2>(rounded))
                            }
                            (_, _) => {
                                store_quarter(y, mask, _mm512_extracti32x4_epi32::<3>(rounded))
                            }
                        }
                    }
                }
            }
            Results::Sums(take) => {
                let mut sums = [0; BLOCK];
                for (register, total) in totals.into_iter().enumerate() {
                    let mut lanes = [0; LANES];
                    // SAFETY: the array has the 64 bytes that are written.
                    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), total) };
                    for (lane, total) in lanes.into_iter().enumerate() {
                        sums[place_of(register, lane)] = total;
                    }
                }
                for (part, place) in places {
                    take(place, self.first, &sums[part * (BLOCK / PARTS)..][..self.count]);
                }
            }
        }
    }
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
                scaling: &Scaling,
                results: &mut Results<'_>,
            ) {
                let start = self.start();
                let mut window = 0;
                while window < run.windows {
                    let rest = &columns[window * self.step() * self.groups() * REGISTERS..];
                    // SAFETY: the caller's promise.
                    unsafe {
                        if run.windows - window >= WINDOWS {
                            let totals = self.$several::<WINDOWS>(start, rest);
                            for (index, totals) in totals.into_iter().enumerate() {
                                self.finish::<PARTS>(run, window + index, totals, scaling, results);
                            }
                            window += WINDOWS;
                        } else {
                            let [totals] = self.$several::<1>(start, rest);
                            self.finish::<PARTS>(run, window, totals, scaling, results);
                            window += 1;
                        }
                    }
                }
            }

            /// The sums of the first windows of these columns.
            #[inline]
            #[target_feature(enable = $features)]
            fn $several<const W: usize>(
                &self,
                start: [__m512i; REGISTERS],
                columns: &[Line],
            ) -> [[__m512i; REGISTERS]; W] {
                let step = self.step() * self.groups() * REGISTERS;
                let reached = (W - 1) * step + self.lines.len();
                assert!(reached <= columns.len(), "depthwise: columns");
                let mut totals = [start; W];
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
