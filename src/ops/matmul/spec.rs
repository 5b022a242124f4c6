use crate::format::{ActivationError, ActivationFormat, FormatError, WeightFormat};
use crate::gpu::{DeviceError, MAX_COUNT};
use crate::ops::{DeviceWeights, FloatType, Role};

/// What is to be multiplied. Strides are in elements and default to packed rows (f16 rows
/// padded to even).
///
/// ```
/// use lowbit::format::{Granularity, WeightFormat};
/// use lowbit::ops::{FloatType, MatmulSpec};
/// let format = WeightFormat::int8(Granularity::Channel);
/// let spec = MatmulSpec::new(16, 1536, 384, format).with_bias().with_output(FloatType::F16);
/// assert!(spec.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSpec {
    /// Largest m that the plan is recorded with.
    pub max_m: u32,
    /// Columns of Y: rows of W.
    pub n: u32,
    /// Columns of X and W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
    /// The type of X.
    pub activations: FloatType,
    /// The type of Y.
    pub output: FloatType,
    /// Whether an f32 bias `[N]` is added.
    pub bias: bool,
    /// Independent X and Y that share W.
    pub batch: u32,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one X of the batch to the next.
    pub x_batch_stride: u32,
    /// Elements from one row of Y to the next.
    pub y_stride: u32,
    /// Elements from one Y of the batch to the next.
    pub y_batch_stride: u32,
    /// Whether f32 X may start at any element. Otherwise, where K and the strides are
    /// multiples of 4, X is loaded 16 bytes at a time and must start at a multiple of 16.
    pub any_x_offset: bool,
    /// Whether codes are read out of textures, where the device and the format have them
    /// ([`code_textures_pay`](super::code_textures_pay)): the weights must then come from
    /// [`DeviceWeights::with_textures`](crate::ops::DeviceWeights::with_textures).
    pub code_textures: bool,
}

/// Why no plan can be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The format is bad.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A 2:4 mask for a dense format.
    #[error("{format} is dense and takes no 2:4 mask; ask for 2:4+{format}")]
    NotTwoFour {
        /// The format.
        format: WeightFormat,
    },
    /// A dimension exceeds what kernels index.
    #[error("{name} = {value} is outside 0…{limit}")]
    TooLarge {
        /// `max_m`, `n`, `k` or `batch`.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The largest allowed.
        limit: u32,
    },
    /// A stride shorter than what it spans, so that rows would overlap.
    #[error("a stride of {stride} elements of {role} is shorter than the {need} it spans")]
    Stride {
        /// X or Y.
        role: Role,
        /// Elements given.
        stride: u32,
        /// Elements needed.
        need: u64,
    },
    /// f16 rows must start at even elements.
    #[error("a stride of {stride} f16 elements of {role} is odd; pad rows to even")]
    OddStride {
        /// X or Y.
        role: Role,
        /// Elements given.
        stride: u32,
    },
    /// A pinned schedule does not apply here.
    #[error("schedule {schedule} does not apply: {what}: {need} asked for, {have} at most")]
    NotApplicable {
        /// The schedule.
        schedule: String,
        /// Of what it needs too much.
        what: &'static str,
        /// How much it needs.
        need: u32,
        /// How much there is.
        have: u32,
    },
    /// Activations that cannot be quantized so.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// One scale and zero point for activations that have many.
    #[error("one scale and zero point are given for {format} activations; int8-tensor takes them")]
    GivenScale {
        /// The format.
        format: ActivationFormat,
    },
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl MatmulSpec {
    /// f32 X and Y, no bias, no batch, packed rows.
    pub fn new(max_m: u32, n: u32, k: u32, weights: WeightFormat) -> Self {
        Self {
            max_m,
            n,
            k,
            weights,
            activations: FloatType::F32,
            output: FloatType::F32,
            bias: false,
            batch: 1,
            x_stride: k,
            x_batch_stride: k.saturating_mul(max_m),
            y_stride: n,
            y_batch_stride: n.saturating_mul(max_m),
            any_x_offset: false,
            code_textures: false,
        }
    }

    /// As [`new`](Self::new), of the shape and format of these weights, out of their textures
    /// where they have them.
    pub fn of(max_m: u32, weights: &DeviceWeights) -> Self {
        // Weights on a device are below 2³¹ each way.
        let (n, k) = (weights.n() as u32, weights.k() as u32);
        let code_textures = weights.has_textures();
        Self { code_textures, ..Self::new(max_m, n, k, weights.format()) }
    }

    /// The same with another type of X; sets packed strides.
    pub fn with_activations(mut self, activations: FloatType) -> Self {
        self.activations = activations;
        self.x_stride = packed_row(self.k, activations);
        self.x_batch_stride = self.x_stride.saturating_mul(self.max_m);
        self
    }

    /// The same with another type of Y; sets packed strides.
    pub fn with_output(mut self, output: FloatType) -> Self {
        self.output = output;
        self.y_stride = packed_row(self.n, output);
        self.y_batch_stride = self.y_stride.saturating_mul(self.max_m);
        self
    }

    /// The same with a bias.
    pub fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// The same with a batch.
    pub fn with_batch(mut self, batch: u32) -> Self {
        self.batch = batch;
        self
    }

    /// The same with other strides of X, in elements.
    pub fn with_x_strides(mut self, row: u32, batch: u32) -> Self {
        (self.x_stride, self.x_batch_stride) = (row, batch);
        self
    }

    /// The same with other strides of Y, in elements.
    pub fn with_y_strides(mut self, row: u32, batch: u32) -> Self {
        (self.y_stride, self.y_batch_stride) = (row, batch);
        self
    }

    /// The same for X that may start at any element.
    pub fn with_any_x_offset(mut self) -> Self {
        self.any_x_offset = true;
        self
    }

    /// The same for weights that have textures.
    pub fn with_code_textures(mut self) -> Self {
        self.code_textures = true;
        self
    }

    /// Bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        extent(self.batch, m, self.x_batch_stride, self.x_stride, self.k)
            .saturating_mul(self.activations.bytes())
    }

    /// Bytes of Y from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        extent(self.batch, m, self.y_batch_stride, self.y_stride, self.n)
            .saturating_mul(self.output.bytes())
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`PlanError`]: a bad format, a dimension too large, strides too short or, for f16,
    /// odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.n as usize, self.k as usize)?;
        let limits = [
            ("max_m", self.max_m, MAX_COUNT),
            ("n", self.n, i32::MAX as u32),
            ("k", self.k, i32::MAX as u32),
            ("batch", self.batch, u16::MAX.into()),
        ];
        for (name, value, limit) in limits {
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit });
            }
        }
        let sides = [
            (Role::Activations, self.activations, self.k, self.x_stride, self.x_batch_stride),
            (Role::Output, self.output, self.n, self.y_stride, self.y_batch_stride),
        ];
        for (role, float, columns, row, batch) in sides {
            if self.max_m > 1 && row < columns {
                return Err(PlanError::Stride { role, stride: row, need: columns.into() });
            }
            let need = extent(1, self.max_m, 0, row, columns);
            // Rows of X may be shared by a whole batch (stride 0), those of Y may not.
            let shared = role == Role::Activations && batch == 0;
            if self.batch > 1 && u64::from(batch) < need && !shared {
                return Err(PlanError::Stride { role, stride: batch, need });
            }
            let odd = [(row, self.max_m), (batch, self.batch)]
                .into_iter()
                .find(|&(stride, count)| count > 1 && stride % 2 == 1);
            if let (FloatType::F16, Some((stride, _))) = (float, odd) {
                return Err(PlanError::OddStride { role, stride });
            }
        }
        Ok(())
    }
}

fn packed_row(columns: u32, float: FloatType) -> u32 {
    match float {
        FloatType::F32 => columns,
        FloatType::F16 => columns.saturating_add(columns % 2),
    }
}

/// Elements from the first to the last one used.
pub(super) fn extent(batch: u32, m: u32, batch_stride: u32, stride: u32, columns: u32) -> u64 {
    if batch == 0 || m == 0 || columns == 0 {
        return 0;
    }
    // `check` keeps these far below 2⁶⁴; whoever asks before it gets no panic.
    let batches = u64::from(batch - 1) * u64::from(batch_stride);
    let rows = u64::from(m - 1) * u64::from(stride);
    batches.saturating_add(rows).saturating_add(u64::from(columns))
}
