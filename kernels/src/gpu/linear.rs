//! Linear layers: a product whose epilogue adds the bias, activates and rounds, in one launch.
//!
//! Weights in bf16 and int8 are multiplied by the matrix units of a GPU that has some, see
//! `matrix`; all else by its ordinary units, see `tiles`. [`Weights`] knows which, for the two
//! read them from different layouts.

use cubecl::prelude::*;
use half::bf16;

use super::activation::Curve;
use super::epilogue::{EpilogueLaunch, Form, SizesLaunch};
use super::math::StepsLaunch;
use super::weights::Numbers;
use super::windows::{WindowsLaunch, area};
use super::{Buffer, Gpu, Weights, matrix, tiles};
use crate::int8::Quantization;
use crate::{Activation, Conv2d, Slide};

/// The parameters of a float layer on a device.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// In f32 or bf16.
    pub weights: &'a Weights,
    /// f32 `[columns]`; zeros where the layer has none.
    pub bias: &'a Buffer,
    /// Applied to the sums.
    pub activation: Activation,
}

/// The parameters of an int8 layer on a device.
#[derive(Clone, Copy, Debug)]
pub struct IntegerLayer<'a> {
    /// In int8.
    pub weights: &'a Weights,
    /// Sum of each column of the weights, i32 `[columns]`.
    pub column_sums: &'a Buffer,
    /// Scale of the input times scale of the column, f32 `[columns]`.
    pub scales: &'a Buffer,
    /// f32 `[columns]`; zeros where the layer has none.
    pub bias: &'a Buffer,
    /// How x is written as int8: an f32 x is rounded as it is read.
    pub input: Quantization,
    /// Whether x is f32.
    pub float_input: bool,
    /// Applied to the scaled sums.
    pub activation: Activation,
}

/// Floats on a device.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// In f32.
    F32(&'a Buffer),
    /// In bf16, which layers and attentions on matrix units read and write, see
    /// [`Weights::reads_bf16`] and [`attention_takes_bf16`](super::attention_takes_bf16), filters of groups
    /// too, and norms write.
    Bf16(&'a Buffer),
    /// In f32, and rounded to bf16 beside it, which only results are, of [`layer_norm`](super::layer_norm)
    /// and of what runs on matrix units.
    Both {
        /// In f32.
        exact: &'a Buffer,
        /// In bf16.
        rounded: &'a Buffer,
    },
}

impl<'a> Floats<'a> {
    /// Where it lies, in f32 where it does so.
    pub(super) const fn buffer(self) -> &'a Buffer {
        match self {
            Self::F32(buffer) | Self::Bf16(buffer) | Self::Both { exact: buffer, .. } => buffer,
        }
    }

    /// Where it lies in bf16 beside f32.
    const fn rounded(self) -> Option<&'a Buffer> {
        match self {
            Self::F32(_) | Self::Bf16(_) => None,
            Self::Both { rounded, .. } => Some(rounded),
        }
    }
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// As floats.
    Floats(Floats<'a>),
    /// Rounded to int8.
    Int8(&'a Buffer, Quantization),
}

impl<'a> Output<'a> {
    pub(super) const fn buffer(self) -> &'a Buffer {
        match self {
            Self::Floats(floats) => floats.buffer(),
            Self::Int8(buffer, _) => buffer,
        }
    }

    /// How it is rounded to int8; by one where it is not, for no kernel reads that.
    pub(super) const fn to(self) -> Quantization {
        match self {
            Self::Floats(_) => Quantization::symmetric(1.0),
            Self::Int8(_, to) => to,
        }
    }
}

/// A product and its buffers.
pub(super) struct Product<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) x: &'a Buffer,
    pub(super) rows: usize,
    pub(super) weights: &'a Weights,
    /// The three below by column; scales and column sums are read for integers only.
    scales: &'a Buffer,
    column_sums: &'a Buffer,
    bias: &'a Buffer,
    input: Quantization,
    float_input: bool,
    /// How rows of x are windows of images, where they are.
    windows: Option<&'a Conv2d>,
    /// f32 in the shape of y, added before the activation.
    pub(super) addend: Option<&'a Buffer>,
    activation: Activation,
    pub(super) y: Output<'a>,
    /// Where y also goes, in bf16.
    pub(super) rounded: Option<&'a Buffer>,
}

/// A product's arguments of a kernel, checked.
pub(super) struct Arguments {
    pub(super) x: BufferArg,
    pub(super) w: BufferArg,
    pub(super) scales: BufferArg,
    pub(super) column_sums: BufferArg,
    pub(super) bias: BufferArg,
    pub(super) addend: BufferArg,
    pub(super) y: BufferArg,
    pub(super) rounded: BufferArg,
    pub(super) sizes: SizesLaunch,
    pub(super) windows: WindowsLaunch,
    pub(super) epilogue: EpilogueLaunch,
}

impl<'a> Product<'a> {
    /// The product of a float layer.
    fn of_floats(
        gpu: &'a Gpu,
        x: Floats<'a>,
        rows: usize,
        &Layer { weights, bias, activation }: &Layer<'a>,
        y: Floats<'a>,
    ) -> Self {
        Self {
            gpu,
            x: x.buffer(),
            rows,
            weights,
            // Nothing reads these two of a float layer.
            scales: bias,
            column_sums: bias,
            bias,
            input: Quantization::symmetric(1.0),
            float_input: false,
            windows: None,
            addend: None,
            activation,
            y: Output::Floats(y),
            rounded: y.rounded(),
        }
    }

    /// The product of an int8 layer.
    ///
    /// # Panics
    /// When its weights are not in int8.
    fn of_integers(
        gpu: &'a Gpu,
        x: &'a Buffer,
        rows: usize,
        layer: &IntegerLayer<'a>,
        y: Output<'a>,
    ) -> Self {
        let IntegerLayer { weights, column_sums, scales, bias, input, float_input, activation } =
            *layer;
        assert_eq!(weights.numbers, Numbers::Int8, "integer_linear: expected weights in int8");
        Self {
            gpu,
            x,
            rows,
            weights,
            scales,
            column_sums,
            bias,
            input,
            float_input,
            windows: None,
            addend: None,
            activation,
            y,
            rounded: None,
        }
    }

    /// The same of rows that are windows of images.
    ///
    /// # Panics
    /// When there are several groups, or the weights are of other sizes.
    fn of_windows(mut self, conv: &'a Conv2d, addend: Option<&'a Buffer>) -> Self {
        assert_eq!(conv.groups, 1, "linear_of_windows: expected one group");
        let sizes = [self.weights.inner, self.weights.columns];
        let taps = area(&conv.windows, |slide| slide.kernel);
        assert_eq!(sizes, [taps * conv.channels, conv.outputs], "linear_of_windows: weights");
        let is_pixel = |slide: &Slide| Slide { input: 1, output: 1, ..*slide } == Slide::ONE;
        let is_linear = conv.windows.iter().all(is_pixel);
        self.windows = (!is_linear).then_some(conv);
        self.rows = conv.batch * area(&conv.windows, |slide| slide.output);
        self.addend = addend;
        self
    }

    fn launch_floats(&self, x: Floats<'_>, y: Floats<'_>) {
        match (self.weights.numbers, x, y) {
            (Numbers::F32, Floats::F32(_), Floats::F32(_)) => self.launch::<f32, f32, f32, f32>(),
            (Numbers::Bf16, Floats::F32(_), Floats::F32(_)) => self.launch::<f32, bf16, f32, f32>(),
            (Numbers::Int8, ..) => panic!("linear: expected weights in f32 or bf16, found int8"),
            _ if !self.weights.on_matrix_units => {
                panic!("linear: expected x and y in f32, found bf16")
            }
            (_, Floats::Both { .. }, _) => panic!("linear: expected x in f32 or bf16, found both"),
            (_, Floats::F32(_), Floats::Bf16(_)) => self.launch::<f32, bf16, f32, bf16>(),
            (_, Floats::F32(_), _) => self.launch::<f32, bf16, f32, f32>(),
            (_, Floats::Bf16(_), Floats::Bf16(_)) => self.launch::<bf16, bf16, f32, bf16>(),
            (_, Floats::Bf16(_), _) => self.launch::<bf16, bf16, f32, f32>(),
        }
    }

    fn launch_integers(&self) {
        match (self.float_input, self.y) {
            (false, Output::Floats(Floats::F32(_))) => self.launch::<i8, i8, i32, f32>(),
            (true, Output::Floats(Floats::F32(_))) => self.launch::<f32, i8, i32, f32>(),
            (false, Output::Int8(..)) => self.launch::<i8, i8, i32, i8>(),
            (true, Output::Int8(..)) => self.launch::<f32, i8, i32, i8>(),
            (_, Output::Floats(Floats::Both { .. })) => {
                panic!("integer_linear: expected y in one type")
            }
            (_, Output::Floats(Floats::Bf16(_))) if !self.weights.on_matrix_units => {
                panic!("integer_linear: expected y in f32, found bf16");
            }
            (false, Output::Floats(Floats::Bf16(_))) => self.launch::<i8, i8, i32, bf16>(),
            (true, Output::Floats(Floats::Bf16(_))) => self.launch::<f32, i8, i32, bf16>(),
        }
    }
}

impl Product<'_> {
    pub(super) fn form(&self) -> Form {
        Form {
            float: self.weights.numbers != Numbers::Int8,
            rounds_input: self.weights.numbers == Numbers::Bf16,
            quantizes_input: self.float_input,
            quantizes_output: matches!(self.y, Output::Int8(..)),
            bias_by_row: false,
            adds: self.addend.is_some(),
            gathers: self.windows.is_some(),
            rounds: self.rounded.is_some(),
            curve: Curve::of(self.activation).0,
        }
    }

    /// Elements of x that lie one after another: of a row, or of a window's pixel.
    pub(super) fn run(&self) -> usize {
        self.windows.map_or(self.weights.inner, |conv| conv.channels)
    }

    /// The arguments of a kernel whose x, weights and y have these types, and which reads `wide`
    /// elements of x at a time.
    ///
    /// # Panics
    /// When a buffer has another length.
    fn arguments<X, W, Y>(&self, wide: usize) -> Arguments {
        let Weights { inner, columns, .. } = *self.weights;
        let elements = self.rows * columns;
        let x = match self.windows {
            None => self.rows * inner,
            Some(conv) => conv.batch * area(&conv.windows, |slide| slide.input) * conv.channels,
        };
        let windows = self.windows.map_or([Slide::ONE; 2], |conv| conv.windows);
        // Nothing reads or writes what is not there.
        let addend = self.addend.map_or_else(
            || self.bias.argument::<f32>("linear: bias", columns),
            |addend| addend.argument::<f32>("linear: addend", elements),
        );
        let (_, [alpha, beta]) = Curve::of(self.activation);
        let [from, to] = [self.input, self.y.to()].map(StepsLaunch::of);
        let rounded = self.rounded.map_or_else(
            || self.bias.argument::<f32>("linear: bias", columns),
            |rounded| rounded.argument::<bf16>("linear: rounded", elements),
        );
        Arguments {
            x: self.x.argument::<X>("linear: x", x),
            w: self.weights.data.argument::<W>("linear: weights", inner * columns),
            scales: self.scales.argument::<f32>("linear: scales", columns),
            column_sums: self.column_sums.argument::<i32>("linear: column sums", columns),
            bias: self.bias.argument::<f32>("linear: bias", columns),
            addend,
            rounded,
            y: self.y.buffer().argument::<Y>("linear: y", elements),
            sizes: SizesLaunch::new(self.rows, inner, columns),
            windows: WindowsLaunch::of(&windows, self.run() / wide),
            epilogue: EpilogueLaunch::new(from, to, alpha, beta),
        }
    }

    fn launch<X: Numeric, W: Numeric, S: Numeric, Y: Numeric>(&self) {
        let wide = match self.weights.on_matrix_units {
            true => matrix::wide::<W>(),
            false => tiles::wide::<X, Y>(self),
        };
        // A piece on the matrix units is of one pixel, whatever the weights were laid out for.
        assert!(self.run().is_multiple_of(wide), "linear: expected runs of {wide} elements");
        let arguments = self.arguments::<X, W, Y>(wide);
        if self.rows * self.weights.columns == 0 {
            return;
        }
        if self.weights.on_matrix_units {
            matrix::launch::<X, W, S, Y>(self, arguments, wide);
        } else {
            tiles::launch::<X, W, S, Y>(self, arguments, wide);
        }
    }

    /// A cube for each tile of this many rows and columns of the result, one after another: devices
    /// allow few in any other direction.
    pub(super) fn cubes(&self, rows: usize, columns: usize) -> CubeCount {
        let cubes = self.weights.columns.div_ceil(columns) * self.rows.div_ceil(rows);
        CubeCount::new_1d(u32::try_from(cubes).expect("fewer than 2³² cubes"))
    }
}

/// `y = activation(x·w + bias)`.
///
/// # Shapes
/// `x`: `[rows, inner]`; `y`: `[rows, columns]`.
///
/// # Panics
/// When x or y is bf16 and [`Weights::reads_bf16`] or [`Weights::writes_bf16`] says no.
pub fn linear(gpu: &Gpu, x: Floats<'_>, rows: usize, layer: &Layer<'_>, y: Floats<'_>) {
    Product::of_floats(gpu, x, rows, layer, y).launch_floats(x, y);
}

/// `y = activation(x ∗ w + bias + addend)`: [`linear()`] of the windows of images whose channels are
/// last, of one group.
///
/// # Shapes
/// - `x`: `[batch, windows[0].input, windows[1].input, channels]`
/// - weights: those of [`Weights::filters`]
/// - `y`: `[batch, windows[0].output, windows[1].output, outputs]`; `addend`: the same in f32
///
/// # Panics
/// As [`linear()`], and when there are several groups.
pub fn linear_of_windows(
    gpu: &Gpu,
    conv: &Conv2d,
    x: Floats<'_>,
    layer: &Layer<'_>,
    addend: Option<&Buffer>,
    y: Floats<'_>,
) {
    let product = Product::of_floats(gpu, x, 0, layer, y).of_windows(conv, addend);
    product.launch_floats(x, y);
}

/// `y = activation((x·w − zero_point·column_sums)·scales + bias)` with sums in integers.
///
/// # Shapes
/// `x`: i8 or f32 `[rows, inner]`; `y`: f32 or i8 `[rows, columns]`.
///
/// # Panics
/// When y is bf16 and [`Weights::writes_bf16`] says no.
pub fn integer_linear(gpu: &Gpu, x: &Buffer, rows: usize, layer: &IntegerLayer<'_>, y: Output<'_>) {
    Product::of_integers(gpu, x, rows, layer, y).launch_integers();
}

/// [`integer_linear`] of the windows of images whose channels are last, of one group; what lies outside of an
/// image is 0, as [`crate::channels_last::integer_conv2d`] has it.
///
/// # Shapes
/// - `x`: i8 or f32 `[batch, windows[0].input, windows[1].input, channels]`
/// - weights: those of [`Weights::integer_filters`]
/// - `y`: f32, bf16 or i8 `[batch, windows[0].output, windows[1].output, outputs]`
///
/// # Panics
/// As [`integer_linear`], and when there are several groups.
pub fn integer_linear_of_windows(
    gpu: &Gpu,
    conv: &Conv2d,
    x: &Buffer,
    layer: &IntegerLayer<'_>,
    y: Output<'_>,
) {
    Product::of_integers(gpu, x, 0, layer, y).of_windows(conv, None).launch_integers();
}
