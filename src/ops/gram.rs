//! Adds XᵀX to exact sums on the device, for methods that compress a layer by the statistics of its
//! inputs.
//!
//! The sums are integers of 128 bits in units of 2⁻⁷², so they are the same in whatever order batches are
//! added, on one device or on several. A recording adds to what the buffers hold. The caller clears them.

use super::buffers::{Window, check, check_aliases, window_capacity};
use super::loads::Loads;
use super::products::{STRIPS, Schedule, TILE, TILES};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, Caps, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT, Pipeline, Size, fragment,
    uniform,
};
use std::ops::Range;
use std::sync::Arc;

/// The largest number of columns. 1024 tiles lie side by side then.
const MAX_COLUMNS: u32 = 1 << 16;

/// Integers of a tile.
const TILE_SUMS: u64 = (TILE * TILE) as u64;

/// Bytes of an integer.
const SUM_BYTES: u64 = 16;

/// The binary logarithm of the unit of sums.
pub const GRAM_UNIT: i32 = -72;

/// Rows whose products are added in f32, before their sum becomes an integer.
pub const GRAM_ROWS: usize = 64;

/// Why sums that were read back are no Gram matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GramError {
    /// X had a NaN or an infinity, or values whose products are too large for f32.
    #[error(
        "{count} sums of products of X were not finite; X has a NaN, an infinity or values that are too large"
    )]
    NotFinite {
        /// The number of sums of up to 64 products that were not finite.
        count: u32,
    },
    /// A sum reached 2⁵⁵.
    #[error("{count} sums of products of X reached 2⁵⁵, which 128 bits do not hold; scale X down")]
    TooLarge {
        /// The number of additions whose result did not fit.
        count: u32,
    },
    /// The number of words is that of another shape.
    #[error("there are {have} words of {what}, but there must be {need}")]
    Words {
        /// The words that were passed: sums, status or a triangle.
        what: &'static str,
        /// The number of words that are needed.
        need: u64,
        /// The number of words that were passed.
        have: u64,
    },
}

/// The shape and type of X, `[m, k]`, whose product XᵀX, `[k, k]`, is added to sums.
///
/// # Sums
/// The sums are divided into tiles of 64 × 64, of which those at and above the diagonal are kept. Tile (a, b)
/// has the rows from 64a on and the columns from 64b on, and number b(b + 1)/2 + a. Within a tile, integers
/// lie row by row. An integer is four words, the lowest first, in two's complement
/// ([`index`](Self::index), [`decode`](Self::decode)). What lies in a tile below the diagonal or past the
/// last column is not part of the result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GramSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// The type of X.
    pub activations: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
}

impl GramSpec {
    /// The number of bytes of the status buffer.
    pub const STATUS_BYTES: u64 = 8;

    /// Creates a spec with packed f32 rows.
    pub fn new(max_m: u32, k: u32) -> Self {
        Self { max_m, k, activations: FloatType::F32, x_stride: k }
    }

    /// Sets the type of X, and a packed stride (an even one for f16).
    pub fn with_activations(self, activations: FloatType) -> Self {
        Self { activations, x_stride: activations.packed(self.k), ..self }
    }

    /// Sets the stride, in elements.
    pub fn with_stride(self, x_stride: u32) -> Self {
        Self { x_stride, ..self }
    }

    fn rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.k, self.x_stride, self.activations)
    }

    fn quads(&self) -> bool {
        self.activations == FloatType::F32 && self.rows().is_quads()
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.rows().bytes(m)
    }

    /// The number of tiles.
    pub(super) fn tiles(&self) -> u64 {
        let side = u64::from(self.k.div_ceil(TILE));
        side * (side + 1) / 2
    }

    /// Returns the number of bytes of the sums.
    pub fn sums_bytes(&self) -> u64 {
        self.tiles().saturating_mul(TILE_SUMS * SUM_BYTES)
    }

    /// Returns the number of integers before that of row `i` and column `j`, `i` ≤ `j`.
    pub fn index(i: u32, j: u32) -> u64 {
        let (a, b) = (u64::from(i / TILE), u64::from(j / TILE));
        let tile = b * (b + 1) / 2 + a;
        tile * TILE_SUMS + u64::from(i % TILE) * u64::from(TILE) + u64::from(j % TILE)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, or the stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("k", self.k, MAX_COLUMNS),
        ])?;
        self.rows().check(self.max_m)
    }

    /// Decodes sums that were read back: the upper triangle row by row, in units of 2⁻⁷² (2 to the power
    /// of [`GRAM_UNIT`]).
    ///
    /// # Errors
    /// Returns [`GramError`] if a number of words is wrong, or the status says that the sums are not exact.
    pub fn decode(&self, sums: &[u32], status: &[u32]) -> Result<Vec<i128>, GramError> {
        let wrong = |what, need, have: &[u32]| {
            Err(GramError::Words { what, need, have: have.len() as u64 })
        };
        let &[not_finite, too_large] = status else { return wrong("status", 2, status) };
        let need = self.sums_bytes() / 4;
        if sums.len() as u64 != need {
            return wrong("sums", need, sums);
        }
        if not_finite > 0 {
            return Err(GramError::NotFinite { count: not_finite });
        }
        if too_large > 0 {
            return Err(GramError::TooLarge { count: too_large });
        }
        let (integers, _) = sums.as_chunks::<4>();
        let mut triangle = Vec::with_capacity(self.k as usize * (self.k as usize + 1) / 2);
        for i in 0..self.k {
            for j in i..self.k {
                // The index is below the number of integers, which was checked.
                let words = integers.get(Self::index(i, j) as usize).copied().unwrap_or_default();
                triangle.push(integer(words));
            }
        }
        Ok(triangle)
    }

    /// Returns the words of sums, as kernels leave them, of an upper triangle row by row in units of 2⁻⁷².
    ///
    /// # Errors
    /// Returns [`GramError::Words`] if the triangle has another number of sums.
    pub fn encode(&self, triangle: &[i128]) -> Result<Vec<u32>, GramError> {
        let need = u64::from(self.k) * (u64::from(self.k) + 1) / 2;
        let have = triangle.len() as u64;
        if have != need {
            return Err(GramError::Words { what: "the triangle", need, have });
        }
        let mut words = vec![[0u32; 4]; (self.sums_bytes() / SUM_BYTES) as usize];
        let places = (0..self.k).flat_map(|i| (i..self.k).map(move |j| (i, j)));
        for ((i, j), &sum) in places.zip(triangle) {
            if let Some(integer) = words.get_mut(Self::index(i, j) as usize) {
                let sum = sum as u128;
                *integer = [0, 32, 64, 96].map(|shift| (sum >> shift) as u32);
            }
        }
        Ok(words.into_flattened())
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let loads = Loads::new(caps, self.activations, self.quads(), false);
        let schedule = Schedule::of(caps);
        let mut consts = vec![("M_TABLE", crate::gpu::Const::U32(M_TABLE))];
        consts.extend(schedule.consts());
        consts.extend(loads.consts);
        let [low, high] = Binding::COUNTS;
        let fragments = loads.fragments.into_iter().chain(["gram/sums", schedule.fragment()]);
        KernelDesc {
            id: format!("gram{}.{}", loads.suffix, schedule.name()),
            consts,
            fragments: fragments.map(fragment).collect(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", X, Access::Read),
                Binding::data(4, "sums", "tiles of integers of four words", Access::Write),
                Binding::data(
                    5,
                    "state",
                    "sums that were not finite, results that did not fit",
                    Access::Write,
                ),
            ],
            grid: Grid::new(&[(&[TILES], 1), (&[STRIPS], 1)]),
            workgroup_size: schedule.workgroup(),
            workgroup_memory: schedule.memory(),
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// The contents of the binding of X.
const X: &str = "X, row-major from element x_offset on; f16 in pairs";

/// Returns the integer of four words, the lowest first.
fn integer(words: [u32; 4]) -> i128 {
    words.iter().rev().fold(0u128, |high, &word| high << 32 | u128::from(word)) as i128
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    // Quads, neither, pairs.
    let specs = [(4, FloatType::F32), (3, FloatType::F32), (4, FloatType::F16)];
    let spec = |(k, float)| GramSpec::new(2, k).with_activations(float);
    specs.into_iter().map(|of| spec(of).shader(caps)).collect()
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "GramParams" in "gram/sums" {
        k: u32,
        x_offset: u32,
        x_stride: u32,
        m0: u32,
        m_cap: u32,
        tile0: u32,
        tiles: u32,
        sums_at: u32,
        state_at: u32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernel for one [`GramSpec`]. A plan is cheap to clone.
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{GramArgs, GramPlan, GramSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (x, sums, status): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// #     read_back: impl Fn(&wgpu::Buffer) -> Vec<u32>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = GramSpec::new(512, 576);
/// let plan = GramPlan::new(kernels, &spec).await?;
/// let args = GramArgs { activations: x.into(), sums: sums.into(), status: status.into() };
/// let bound = plan.bind(args).await?;
/// // For each batch, here of 100 rows:
/// bound.record(pass, 100)?;
/// // After all batches:
/// let triangle = spec.decode(&read_back(sums), &read_back(status))?;
/// println!("Σx₀² = {}", triangle[0] as f64 * 2f64.powi(lowbit::ops::GRAM_UNIT));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct GramPlan {
    kernels: Kernels,
    spec: GramSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one Gram matrix.
#[derive(Clone, Copy, Debug)]
pub struct GramArgs<'a> {
    /// X. f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes, others at
    /// a multiple of 4.
    pub activations: SubBuffer<'a>,
    /// The sums, [`GramSpec::sums_bytes`], at a multiple of 16 bytes. Each recording adds to them.
    pub sums: SubBuffer<'a>,
    /// The status, [`GramSpec::STATUS_BYTES`]: how many sums were not finite, and how many did not fit.
    pub status: SubBuffer<'a>,
}

/// A Gram matrix with its buffers. A recording adds to what sums and status held.
pub type BoundGram = Bound<GramPlan>;

impl GramPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &GramSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &GramSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. X and the sums are split if
    /// they exceed a binding.
    ///
    /// # Errors
    /// Returns [`BindError`]; [`BindError::RowTooLarge`] also if a tile exceeds a binding.
    pub async fn bind(&self, args: GramArgs<'_>) -> Result<BoundGram, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let align = if spec.quads() { 16 } else { 4 };
        let x = Rows { align, ..Rows::read(spec.rows(), args.activations) };
        check_rows(&[x], spec.max_m)?;
        check(Role::Output, args.sums, spec.sums_bytes(), SUM_BYTES)?;
        check(Role::Status, args.status, GramSpec::STATUS_BYTES, 4)?;
        let written = [args.sums.buffer, args.status.buffer];
        check_aliases([(Role::Activations, x.at.buffer)], &written)?;
        check_aliases([(Role::Status, args.status.buffer)], &written[..1])?;
        let (limit, need) = (window_capacity(caps), TILE_SUMS * SUM_BYTES);
        let fit = limit / need;
        if fit == 0 {
            return Err(BindError::RowTooLarge { role: Role::Output, need, limit });
        }
        let spans = if spec.k == 0 || spec.max_m == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, [x.spec])?
        };
        let parts: Vec<Range<u64>> = (0..spec.tiles().div_ceil(fit))
            .map(|part| part * fit..spec.tiles().min((part + 1) * fit))
            .collect();
        let slots = spans.count().saturating_mul(parts.len() as u64);
        let (label, count) = ("lowbit gram", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, slots)?;
        let (buffer, offset) = (args.status.buffer, args.status.offset);
        let state = Window::new(caps, buffer, offset, GramSpec::STATUS_BYTES);
        for span in spans.iter() {
            let x_window = x.window(caps, &span);
            for part in &parts {
                let (tiles, start) = (part.end - part.start, args.sums.offset + need * part.start);
                let sums = Window::new(caps, args.sums.buffer, start, need * tiles);
                let slot = draft.slot(Params {
                    k: spec.k,
                    x_offset: x_window.at(x.spec.unit),
                    x_stride: spec.x_stride,
                    m0: span.m0,
                    m_cap: span.m_cap,
                    tile0: part.start as u32,
                    tiles: tiles as u32,
                    sums_at: sums.at(SUM_BYTES),
                    state_at: state.at(4),
                    pad: [0; 3],
                });
                let strips = Schedule::of(caps).strips();
                let sizes = [(TILES, Size::Fixed(tiles)), (STRIPS, Size::Fixed(strips))];
                let bound = [(3, x_window.into()), (4, sums.into()), (5, state.into())];
                draft.step(&self.pipeline, Head::Counted(slot), bound, span, &sizes);
            }
        }
        draft.bind(self.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_integers() {
        assert_eq!(integer([1, 0, 0, 0]), 1);
        assert_eq!(integer([u32::MAX; 4]), -1);
        assert_eq!(integer([5, 7, 0, 1 << 31]), i128::MIN + (7 << 32) + 5);
    }

    #[test]
    fn triangles_are_encoded() {
        let spec = GramSpec::new(1, 70);
        let triangle: Vec<i128> = (0..70 * 71 / 2).map(|i| (i - 900) << (i % 90)).collect();
        let words = spec.encode(&triangle).unwrap();
        assert_eq!(spec.decode(&words, &[0, 0]).unwrap(), triangle);
        assert!(spec.encode(&triangle[1..]).is_err());
    }

    /// Every place at and above the diagonal has a number of its own, without gaps between tiles.
    #[test]
    fn tiles_are_numbered() {
        let spec = GramSpec::new(1, 150);
        assert_eq!(spec.sums_bytes(), 6 * 65536);
        let mut seen = std::collections::HashSet::new();
        for j in 0..150 {
            for i in 0..=j {
                assert!(seen.insert(GramSpec::index(i, j)));
            }
        }
        assert!(seen.iter().all(|&index| index < 6 * 4096));
        assert_eq!(GramSpec::index(65, 130), (2 * 3 / 2 + 1) * 4096 + 64 + 2);
    }
}
