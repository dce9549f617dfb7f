//! Scaled dot-product attention in one launch (Dao et al. 2022, arXiv:2205.14135, with the online
//! softmax of Milakov and Gimelshein 2018, arXiv:1805.02867): scores never reach memory.
//!
//! Several units share a query: each walks over its part of the keys with a softmax of its own, its
//! sums in registers, and at the end these are brought to one greatest score and added. All units of
//! a cube share the keys and values in its memory.

use cubecl::prelude::*;
use half::bf16;

use super::linear::{Floats, Output};
use super::math::{Steps, StepsLaunch, exp_of_negative, quantized};
use super::{Buffer, Gpu, matrix_attention};
use crate::{Attention, NoKeys, Products};

/// Elements that are read at a time where all rows begin at a multiple of it.
const WIDE: usize = 4;

/// Most elements of a head: a unit holds a query and as many sums in registers.
const MOST_HEAD: usize = 256;

/// One of query, key and value, see [`crate::Heads`].
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Element `(b, t, h, d)` lies at `start + (b·tokens + t)·row_stride + h·head_size + d`.
    pub data: Floats<'a>,
    /// Where the first lies.
    pub start: usize,
    /// Elements from one token to the next.
    pub row_stride: usize,
}

/// What is added to the scores, see [`crate::Mask`].
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// f32.
    pub data: &'a Buffer,
    /// From batch to batch, head to head, query to query; 0 repeats.
    pub strides: [usize; 3],
}

/// Where the heads of one operand are, in vectors.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Rows {
    pub(super) start: usize,
    pub(super) stride: usize,
}

/// Sizes and strides of an attention.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Walk {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) q: Rows,
    pub(super) k: Rows,
    pub(super) v: Rows,
    pub(super) mask_batch: usize,
    pub(super) mask_head: usize,
    pub(super) mask_query: usize,
    pub(super) scale: f32,
    /// What a query gets that no key is left for.
    pub(super) without_keys: f32,
}

/// An attention's arguments of a kernel, checked.
pub(super) struct Arguments {
    pub(super) q: BufferArg,
    pub(super) k: BufferArg,
    pub(super) v: BufferArg,
    pub(super) mask: BufferArg,
    pub(super) masked: bool,
    pub(super) y: BufferArg,
    pub(super) walk: WalkLaunch,
    pub(super) to: StepsLaunch,
    pub(super) quantizes_output: bool,
}

/// What an attention is compiled for. Elements of heads are read `wide` at a time, as vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Vectors of a head.
    size: usize,
    wide: usize,
    /// Units of a cube.
    units: usize,
    /// Units that share a query, a power of two.
    parts: usize,
    /// Keys that a unit takes from each tile.
    block: usize,
    masked: bool,
    quantizes_output: bool,
}

impl Form {
    /// Keys that a cube holds in shared memory at a time.
    const fn keys(self) -> usize {
        self.parts * self.block
    }

    /// Vectors from one key, or one unit's sums, to the next: neighbours begin in different banks.
    const fn pitch(self) -> usize {
        self.size + 1
    }

    /// Vectors of shared memory: keys and values, and later the sums of all units.
    const fn shared(self) -> usize {
        let tiles = 2 * self.keys() * self.pitch();
        let sums = self.units * self.pitch();
        if tiles > sums { tiles } else { sums }
    }
}

/// Loads keys `first..` of one head behind `place`, zeros behind the last.
#[cube]
fn load<N: Size>(
    data: &[Vector<f32, N>],
    tile: &mut Shared<[Vector<f32, N>]>,
    start: usize,
    rows: &Rows,
    first: usize,
    keys: usize,
    #[comptime] place: usize,
    #[comptime] form: Form,
) {
    let count = comptime!(form.keys() * form.size);
    let mut index = UNIT_POS as usize;
    while index < count {
        let (row, column) = (index / form.size, index % form.size);
        let mut value = Vector::<f32, N>::new(0.0f32);
        if first + row < keys {
            value = data[start + (first + row) * rows.stride + column];
        }
        tile[place + row * comptime!(form.pitch()) + column] = value;
        index += form.units;
    }
}

/// The sum of the elements.
#[cube]
fn total_of_elements<N: Size>(vector: Vector<f32, N>, #[comptime] wide: usize) -> f32 {
    let mut total = vector.extract(0usize);
    #[unroll]
    for element in 1..wide {
        total += vector.extract(element);
    }
    total
}

/// Where a unit works.
#[derive(Clone, Copy, CubeType)]
struct Place {
    batch: usize,
    head: usize,
    query: usize,
    /// Which of the units of a query.
    part: usize,
}

#[cube]
fn place(#[comptime] form: Form) -> Place {
    let unit = UNIT_POS as usize;
    let queries = comptime!(form.units / form.parts);
    Place {
        batch: CUBE_POS_Z as usize,
        head: CUBE_POS_Y as usize,
        query: CUBE_POS_X as usize * queries + unit / form.parts,
        part: unit % form.parts,
    }
}

/// Scores of this unit's keys of the tile that begins with key `first`; returns the greatest of
/// them and of those before.
#[cube]
fn score<N: Size>(
    x: &Array<Vector<f32, N>>,
    tile: &Shared<[Vector<f32, N>]>,
    scores: &mut Array<f32>,
    mask: &[f32],
    mask_start: usize,
    greatest: f32,
    first: usize,
    keys: usize,
    part: usize,
    #[comptime] form: Form,
) -> f32 {
    let mut newest = greatest;
    #[unroll]
    for key in 0..form.block {
        let start = (part + comptime!(key * form.parts)) * comptime!(form.pitch());
        let mut products = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for index in 0..form.size {
            products = fma(x[index], tile[start + index], products);
        }
        let mut score = total_of_elements(products, form.wide);
        let place = first + part + comptime!(key * form.parts);
        if place < keys {
            if comptime!(form.masked) {
                score += mask[mask_start + place];
            }
        } else {
            score = f32::new(f32::NEG_INFINITY);
        }
        scores[key] = score;
        newest = max(newest, score);
    }
    newest
}

/// Adds this unit's values of the tile, by their weights, to the corrected sums.
#[cube]
fn add_values<N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    tile: &Shared<[Vector<f32, N>]>,
    weights: &Array<f32>,
    correction: f32,
    part: usize,
    #[comptime] form: Form,
) {
    let values = comptime!(form.keys() * form.pitch());
    #[unroll]
    for index in 0..form.size {
        let mut sum = sums[index] * Vector::new(correction);
        #[unroll]
        for key in 0..form.block {
            let row = part + comptime!(key * form.parts);
            let place = values + row * comptime!(form.pitch()) + index;
            sum = fma(Vector::new(weights[key]), tile[place], sum);
        }
        sums[index] = sum;
    }
}

/// Adds up what the parts of a query found, and writes it from vector `start` on.
#[cube]
fn write<Y: Numeric, N: Size>(
    sums: &Shared<[Vector<f32, N>]>,
    totals: &Shared<[f32]>,
    y: &mut [Y],
    start: usize,
    part: usize,
    without_keys: f32,
    to: &Steps,
    #[comptime] form: Form,
) {
    let first_part = UNIT_POS as usize - part;
    let mut total = f32::new(0.0);
    #[unroll]
    for other in 0..form.parts {
        total += totals[first_part + other];
    }
    // The total is 0 where all keys are masked by −∞, and may be NaN.
    let weighs = total > 0.0f32;
    let inverse = 1.0f32 / total;
    let mut index = part;
    while index < form.size {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for other in 0..form.parts {
            sum += sums[(first_part + other) * comptime!(form.pitch()) + index];
        }
        #[unroll]
        for element in 0..form.wide {
            let value = select(weighs, sum.extract(element) * inverse, without_keys);
            let place = (start + index) * form.wide + element;
            if comptime!(form.quantizes_output) {
                y[place] = Y::cast_from(quantized(value, to));
            } else {
                y[place] = Y::cast_from(value);
            }
        }
        index += form.parts;
    }
}

#[cube(launch_unchecked)]
fn attention_kernel<Y: Numeric, N: Size>(
    q: &[Vector<f32, N>],
    k: &[Vector<f32, N>],
    v: &[Vector<f32, N>],
    mask: &[f32],
    y: &mut [Y],
    walk: Walk,
    to: Steps,
    #[comptime] form: Form,
) {
    let (size, values) = comptime!((form.size, form.keys() * form.pitch()));
    let mut shared =
        Shared::<[Vector<f32, N>]>::new_aligned_slice(comptime!(form.shared()), 16usize);
    let mut greatest_of = Shared::<[f32]>::new_slice(form.units);
    let mut total_of = Shared::<[f32]>::new_slice(form.units);
    let Place { batch, head, query, part } = place(form);
    let unit = UNIT_POS as usize;
    // Units behind the last query still load keys; they work on the last one and write nothing.
    let row = min(query, walk.queries - 1);

    let mut x = Array::<Vector<f32, N>>::new(size);
    let mut sums = Array::<Vector<f32, N>>::new(size);
    let mut scores = Array::<f32>::new(form.block);
    let query_start = walk.q.start + (batch * walk.queries + row) * walk.q.stride + head * size;
    #[unroll]
    for index in 0..size {
        x[index] = q[query_start + index] * Vector::new(walk.scale);
        sums[index] = Vector::new(0.0f32);
    }
    let mask_start = batch * walk.mask_batch + head * walk.mask_head + row * walk.mask_query;
    let key_start = walk.k.start + batch * walk.keys * walk.k.stride + head * size;
    let value_start = walk.v.start + batch * walk.keys * walk.v.stride + head * size;
    let mut greatest = f32::new(f32::MIN);
    let mut total = f32::new(0.0);
    let mut first = 0usize;
    while first < walk.keys {
        load(k, &mut shared, key_start, &walk.k, first, walk.keys, 0usize, form);
        load(v, &mut shared, value_start, &walk.v, first, walk.keys, values, form);
        sync_cube();
        let newest = score::<N>(
            &x,
            &shared,
            &mut scores,
            mask,
            mask_start,
            greatest,
            first,
            walk.keys,
            part,
            form,
        );
        let correction = exp_of_negative(greatest - newest);
        greatest = newest;
        total *= correction;
        #[unroll]
        for key in 0..form.block {
            scores[key] = exp_of_negative(scores[key] - greatest);
            total += scores[key];
        }
        add_values::<N>(&mut sums, &shared, &scores, correction, part, form);
        sync_cube();
        first += comptime!(form.keys());
    }

    // The parts of a query are neighbours.
    greatest_of[unit] = greatest;
    sync_cube();
    let mut of_all = greatest;
    #[unroll]
    for other in 0..form.parts {
        of_all = max(of_all, greatest_of[unit - part + other]);
    }
    let correction = exp_of_negative(greatest - of_all);
    total_of[unit] = total * correction;
    #[unroll]
    for index in 0..size {
        shared[unit * comptime!(form.pitch()) + index] = sums[index] * Vector::new(correction);
    }
    sync_cube();
    if query < walk.queries {
        let start = ((batch * walk.queries + query) * CUBE_COUNT_Y as usize + head) * size;
        write::<Y, N>(&shared, &total_of, y, start, part, walk.without_keys, &to, form);
    }
}

/// Whether heads of this size can be computed.
pub fn supports_head(head_size: usize) -> Result<(), String> {
    if head_size <= MOST_HEAD {
        return Ok(());
    }
    Err(format!("takes heads of at most {MOST_HEAD} elements, found {head_size}"))
}

/// Whether query, key and value, all three, may be bf16, and the result: of heads of this size, whose
/// starts and strides are these `places`.
pub fn attention_takes_bf16(gpu: &Gpu, head_size: usize, places: &[usize]) -> bool {
    let whole = places.iter().all(|place| place.is_multiple_of(matrix_attention::WIDE));
    whole && matrix_attention::multiplies_heads(gpu, head_size)
}

/// `y = softmax(q·kᵀ·scale + mask)·v` for every sequence and head. Matrix units multiply where they
/// can and products may be [`Products::Bf16`]; sums are f32.
///
/// # Shapes
/// `q`: `queries` tokens, `k` and `v`: `keys` tokens a sequence; `y`: `[batch, queries,
/// heads·head_size]`.
///
/// # Panics
/// When a buffer is too short, or `y` has another length; when only some of q, k and v are bf16, or
/// anything is without [`Products::Bf16`] or where [`attention_takes_bf16`] says no.
pub fn attention(
    gpu: &Gpu,
    sizes: &Attention,
    qkv: [Heads<'_>; 3],
    mask: Option<Mask<'_>>,
    y: Output<'_>,
) {
    let launch = Launch { gpu, sizes, qkv, mask, y };
    let in_bf16 = qkv.map(|part| matches!(part.data, Floats::Bf16(_)));
    let on_matrix_units = sizes.products == Products::Bf16 && launch.multiplies();
    match (in_bf16, y, on_matrix_units) {
        ([false, false, false], Output::Floats(Floats::F32(_)), false) => launch.plain::<f32>(),
        ([false, false, false], Output::Int8(..), false) => launch.plain::<i8>(),
        ([false, false, false], y, true) => launch.on_matrix_units::<f32>(y),
        ([true, true, true], y, true) => launch.on_matrix_units::<bf16>(y),
        (_, _, false) => panic!("attention: expected floats in f32, found bf16"),
        _ => panic!("attention: expected q, k and v of one type"),
    }
}

/// An attention and its buffers.
struct Launch<'a> {
    gpu: &'a Gpu,
    sizes: &'a Attention,
    qkv: [Heads<'a>; 3],
    mask: Option<Mask<'a>>,
    y: Output<'a>,
}

impl Launch<'_> {
    /// Whether matrix units can read the operands and write the result.
    fn multiplies(&self) -> bool {
        let head_size = self.sizes.head_size;
        matrix_attention::multiplies_heads(self.gpu, head_size)
            && self.reads(matrix_attention::WIDE)
            && self.y.buffer().is_aligned_to(2 * size_of::<f32>())
    }

    /// Whether rows are whole vectors of so many elements.
    fn reads(&self, wide: usize) -> bool {
        let aligned = |part: &Heads<'_>| part.data.buffer().is_aligned_to(wide * size_of::<f32>());
        let places = self.qkv.map(|part| [part.start, part.row_stride]);
        places.as_flattened().iter().chain([&self.sizes.head_size]).all(|n| n % wide == 0)
            && self.qkv.iter().all(aligned)
    }

    fn on_matrix_units<X: Numeric>(&self, y: Output<'_>) {
        match y {
            Output::Floats(Floats::F32(_)) => self.on_matrix_units_into::<X, f32>(),
            Output::Floats(Floats::Bf16(_)) => self.on_matrix_units_into::<X, bf16>(),
            Output::Floats(Floats::Both { .. }) => panic!("attention: expected y in one type"),
            Output::Int8(..) => self.on_matrix_units_into::<X, i8>(),
        }
    }

    fn on_matrix_units_into<X: Numeric, Y: Numeric>(&self) {
        if let Some(arguments) = self.arguments::<X, Y>(matrix_attention::WIDE) {
            matrix_attention::launch::<X, Y>(self.gpu, self.sizes, arguments);
        }
    }

    fn plain<Y: Numeric>(&self) {
        let wide = if self.reads(WIDE) { WIDE } else { 1 };
        if let Some(arguments) = self.arguments::<f32, Y>(wide) {
            launch_plain::<Y>(self.gpu, self.sizes, arguments, wide);
        }
    }

    /// The arguments of a kernel whose operands and result have these types, which reads `wide`
    /// elements at a time; nothing where there is nothing to compute.
    ///
    /// # Panics
    /// When a buffer is too short, or y has another length.
    fn arguments<X, Y>(&self, wide: usize) -> Option<Arguments> {
        let Attention { batch, heads, queries, keys, head_size, scale, no_keys, .. } = *self.sizes;
        let width = heads * head_size;
        let y = self.y.buffer().argument::<Y>("attention: y", batch * queries * width);
        if batch * queries * width == 0 {
            return None;
        }
        let [q, k, v] = self.qkv;
        let q_rows = checked::<X>("q", q, batch * queries, width, wide);
        let k_rows = checked::<X>("k", k, batch * keys, width, wide);
        let v_rows = checked::<X>("v", v, batch * keys, width, wide);
        let mask = self.mask.map(|mask| check_mask(mask, self.sizes));
        // Where there is none, any buffer does.
        let (mask, [mask_batch, mask_head, mask_query]) =
            mask.map_or((q.data.buffer(), [0; 3]), |mask| (mask.data, mask.strides));
        let without_keys = if keys == 0 || no_keys == NoKeys::Zero { 0.0 } else { f32::NAN };
        let walk = WalkLaunch::new(
            queries,
            keys,
            q_rows,
            k_rows,
            v_rows,
            mask_batch,
            mask_head,
            mask_query,
            scale,
            without_keys,
        );
        let operand = |part: Heads<'_>| {
            let buffer = part.data.buffer();
            buffer.argument::<X>("attention", buffer.len() / size_of::<X>())
        };
        Some(Arguments {
            q: operand(q),
            k: operand(k),
            v: operand(v),
            mask: mask.argument::<f32>("attention: mask", mask.len() / size_of::<f32>()),
            masked: self.mask.is_some(),
            y,
            walk,
            to: StepsLaunch::of(self.y.to()),
            quantizes_output: matches!(self.y, Output::Int8(..)),
        })
    }
}

/// A cube for so many queries of each head of each sequence.
pub(super) fn cubes(sizes: &Attention, queries: usize) -> CubeCount {
    let [x, y, z] = [sizes.queries.div_ceil(queries), sizes.heads, sizes.batch]
        .map(|cubes| u32::try_from(cubes).expect("fewer than 2³² cubes"));
    CubeCount::new_3d(x, y, z)
}

fn launch_plain<Y: Numeric>(gpu: &Gpu, sizes: &Attention, arguments: Arguments, wide: usize) {
    let Arguments { q, k, v, mask, masked, y, walk, to, quantizes_output } = arguments;
    let units = gpu.units(128) as usize;
    // Large heads leave registers and shared memory for few keys.
    let block = if sizes.head_size <= 64 { 8 } else { 2 };
    let parts = units.min(8);
    let size = sizes.head_size / wide;
    let form = Form { size, wide, units, parts, block, masked, quantizes_output };
    let (cubes, dim) = (cubes(sizes, units / parts), CubeDim::new_1d(units as u32));
    // SAFETY: `Arguments` were checked: all reads lie in their buffers, and y has an element for
    // each query, head and place; queries behind the last are not written.
    unsafe {
        attention_kernel::launch_unchecked::<Y>(
            &gpu.client,
            cubes,
            dim,
            wide,
            q,
            k,
            v,
            mask,
            y,
            walk,
            to,
            form,
        );
    };
}

fn checked<X>(name: &str, part: Heads<'_>, tokens: usize, width: usize, wide: usize) -> RowsLaunch {
    let last = tokens.checked_sub(1).map(|last| part.start + last * part.row_stride + width);
    let (needed, found) = (last.unwrap_or(0), part.data.buffer().len() / size_of::<X>());
    assert!(needed <= found, "attention: {name} needs {needed} elements, found {found}");
    RowsLaunch::new(part.start / wide, part.row_stride / wide)
}

fn check_mask<'a>(mask: Mask<'a>, sizes: &Attention) -> Mask<'a> {
    let [batch, head, query] = mask.strides;
    let last = batch * (sizes.batch - 1) + head * (sizes.heads - 1) + query * (sizes.queries - 1);
    let (needed, found) = (last + sizes.keys, mask.data.len() / size_of::<f32>());
    assert!(needed <= found, "attention: mask needs {needed} elements, found {found}");
    mask
}
