//! The loops over K, their tiles, and the devices that can run them.

use super::{Activations, Epilogue, PlanError};
use crate::format::BLOCK_K;
use crate::gpu::{AdapterClass, Caps};
use crate::ops::FloatType;

/// The K loop of a kernel; see the file of that name under `shaders/schedule/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Schedule {
    /// `lanes` lanes split K, for `m_tile` rows of X at a time.
    Gemv {
        /// A power of two up to 256.
        lanes: u32,
        /// 1 to 8.
        m_tile: u32,
    },
    /// A lane owns `n_tile` columns of Y for `m_tile` rows of X.
    Rows {
        /// 1 or 4; on CPU-type adapters also 8 or 16.
        m_tile: u32,
        /// 2, or for one row of X also 4.
        n_tile: u32,
    },
    /// A workgroup makes a tile of `m_tile` × 64 with workgroup memory.
    Tiled {
        /// 32 or 64.
        m_tile: u32,
    },
    /// For quantized X: a lane owns 4 columns of Y for `m_tile` rows of X.
    IntRows {
        /// 1 or 4.
        m_tile: u32,
    },
    /// For quantized X: `lanes` lanes split K, for `m_tile` rows of X at a time.
    IntGemv {
        /// A power of two up to 256.
        lanes: u32,
        /// 1 to 8.
        m_tile: u32,
    },
    /// For quantized X: a workgroup makes a tile of `m_tile` × 64 with workgroup memory.
    IntTiled {
        /// 32 or 64.
        m_tile: u32,
    },
    /// Experimental: a workgroup makes a tile of `2 · size` × `2 · size` with cooperative matrices, on
    /// devices whose [`Caps::matrix`] equals `size`.
    ///
    /// [`select`](super::select) never chooses it, and [`all`](Self::all) does not list it: with
    /// matrices of 16, X and scaled weights are rounded to f16 (and overflow beyond 65504), so that the
    /// bound of [`reference`](crate::reference) does not hold. No adapter has run it yet.
    Coop {
        /// 16 (f16 products, f32 sums) or 8 (all f32).
        size: u32,
    },
}

/// The least number of lanes in a workgroup that splits K for few rows of X.
const GEMV_WORKGROUP: u32 = 32;

impl Schedule {
    /// Returns every schedule and tile that [`select`](super::select) can choose on some device,
    /// for K columns.
    pub fn all(k: u32) -> Vec<Self> {
        let (lanes, most) = gemv_lanes(k);
        let mut all = vec![
            Self::Gemv { lanes, m_tile: 1 },
            Self::Gemv { lanes, m_tile: 4 },
            Self::Rows { m_tile: 1, n_tile: 2 },
            Self::Rows { m_tile: 1, n_tile: 4 },
            Self::Rows { m_tile: 4, n_tile: 2 },
            Self::Rows { m_tile: 8, n_tile: 2 },
            Self::Rows { m_tile: 16, n_tile: 2 },
            Self::Tiled { m_tile: 32 },
            Self::Tiled { m_tile: 64 },
        ];
        if most > lanes {
            all.push(Self::Gemv { lanes: most, m_tile: 1 });
            all.push(Self::Gemv { lanes: most, m_tile: 4 });
        }
        all
    }

    /// Returns every schedule and tile for quantized X, for K columns.
    pub fn integer(k: u32) -> Vec<Self> {
        let (lanes, most) = gemv_lanes(k);
        let mut all = vec![
            Self::IntGemv { lanes, m_tile: 1 },
            Self::IntGemv { lanes, m_tile: 4 },
            Self::IntRows { m_tile: 1 },
            Self::IntRows { m_tile: 4 },
            Self::IntTiled { m_tile: 32 },
            Self::IntTiled { m_tile: 64 },
        ];
        if most > lanes {
            all.push(Self::IntGemv { lanes: most, m_tile: 1 });
            all.push(Self::IntGemv { lanes: most, m_tile: 4 });
        }
        all
    }

    /// Returns the schedules of [`all`](Self::all) or [`integer`](Self::integer) that multiply such
    /// X.
    pub fn for_activations(activations: Activations, k: u32) -> Vec<Self> {
        match activations {
            Activations::Float(_) => Self::all(k),
            Activations::Int8(_) => Self::integer(k),
        }
    }

    /// Returns whether it is for quantized X.
    pub const fn is_integer(&self) -> bool {
        matches!(self, Self::IntRows { .. } | Self::IntGemv { .. } | Self::IntTiled { .. })
    }

    /// Schedules that only a caller can pin.
    pub fn experimental() -> [Self; 2] {
        [Self::Coop { size: 16 }, Self::Coop { size: 8 }]
    }

    /// Invocations in a workgroup.
    pub fn workgroup(&self) -> u32 {
        match *self {
            // One wave of 32 if possible, because AMD's hardware then issues two operations at once.
            Self::Gemv { lanes, .. } | Self::IntGemv { lanes, .. } => lanes.max(GEMV_WORKGROUP),
            // Few lanes, so that even 384 columns occupy every core.
            Self::Rows { .. } | Self::IntRows { .. } => 32,
            Self::Tiled { .. } | Self::IntTiled { .. } => 128,
            Self::Coop { .. } => 32,
        }
    }

    /// Returns the number of bytes of workgroup memory.
    pub fn workgroup_memory(&self) -> u32 {
        match *self {
            Self::Gemv { m_tile, .. } | Self::IntGemv { m_tile, .. } => {
                m_tile.saturating_mul(self.workgroup().saturating_mul(16))
            }
            Self::Rows { .. } | Self::IntRows { .. } => 0,
            Self::Tiled { m_tile } => m_tile.saturating_add(64).saturating_mul(8 * 16),
            Self::IntTiled { m_tile } => m_tile.saturating_add(64).saturating_mul(8 * 4),
            // Rows of 40 elements of 2 or 4 bytes, of X and W, and f32 results.
            Self::Coop { size: 16 } => 2 * 32 * 40 * 2 + 32 * 32 * 4,
            Self::Coop { .. } => 2 * 16 * 40 * 4 + 16 * 16 * 4,
        }
    }

    /// Rows and columns of Y that one workgroup makes.
    pub fn tile(&self) -> (u32, u32) {
        match *self {
            Self::Gemv { lanes, m_tile } | Self::IntGemv { lanes, m_tile } => {
                (m_tile, 4 * (self.workgroup() / lanes.max(1)))
            }
            Self::IntRows { m_tile } => (m_tile, 4 * self.workgroup()),
            Self::Rows { m_tile, n_tile } => (m_tile, n_tile.saturating_mul(self.workgroup())),
            Self::Tiled { m_tile } | Self::IntTiled { m_tile } => (m_tile, 64),
            Self::Coop { size } => (size.saturating_mul(2), size.saturating_mul(2)),
        }
    }

    /// Returns whether the schedule stores what an epilogue makes, in this type. Two lanes of the schedule of
    /// cooperative matrices would share a word of gated f16, and where there are such matrices, naga writes
    /// atomics with a scope that drivers need not support.
    pub(super) fn stores(&self, epilogue: Epilogue, float: FloatType) -> bool {
        let halves = epilogue == Epilogue::Gated && float == FloatType::F16;
        !(halves && matches!(self, Self::Coop { .. }))
    }

    /// Checks that the device can run the schedule.
    ///
    /// # Errors
    /// Returns [`PlanError::NotApplicable`], which names what is missing.
    pub fn check(&self, caps: &Caps) -> Result<(), PlanError> {
        let refuse = |what, need, have| {
            Err(PlanError::NotApplicable { schedule: self.to_string(), what, need, have })
        };
        if let Self::Gemv { lanes, .. } | Self::IntGemv { lanes, .. } = *self
            && !(lanes.is_power_of_two() && lanes <= 256)
        {
            return refuse("lanes (a power of two up to 256)", lanes, 256);
        }
        if let Self::Gemv { m_tile, .. } | Self::IntGemv { m_tile, .. } = *self
            && !(1..=8).contains(&m_tile)
        {
            return refuse("rows at a time (1 to 8)", m_tile, 8);
        }
        if let Self::Rows { m_tile, n_tile } = *self {
            if !matches!(m_tile, 1 | 4 | 8 | 16) {
                return refuse("rows at a time (1, 4, 8 or 16)", m_tile, 16);
            }
            // It takes hundreds of registers, which move between stack and caches on a CPU but spill
            // on a GPU.
            if m_tile > 4 && caps.class == AdapterClass::Gpu {
                return refuse("rows at a time (1 or 4 on a GPU)", m_tile, 4);
            }
            if n_tile != 2 && (m_tile, n_tile) != (1, 4) {
                return refuse("columns a lane (2, or 4 for one row)", n_tile, 4);
            }
        }
        if let Self::IntRows { m_tile } = *self
            && !matches!(m_tile, 1 | 4)
        {
            return refuse("rows at a time (1 or 4)", m_tile, 4);
        }
        if let Self::Tiled { m_tile } | Self::IntTiled { m_tile } = *self
            && !matches!(m_tile, 32 | 64)
        {
            return refuse("rows of a tile (32 or 64)", m_tile, 64);
        }
        if let Self::Coop { size } = *self {
            if !matches!(size, 8 | 16) {
                return refuse("cooperative matrices (of 8 or 16)", size, 16);
            }
            if size != caps.matrix {
                return refuse("cooperative matrices (of the device's size)", size, caps.matrix);
            }
        }
        let needs = [
            ("invocations a workgroup", self.workgroup(), caps.max_invocations),
            ("bytes of workgroup memory", self.workgroup_memory(), caps.max_workgroup_memory),
        ];
        match needs.into_iter().find(|(_, need, have)| need > have) {
            Some((what, need, have)) => refuse(what, need, have),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gemv { lanes, m_tile } => write!(f, "gemv_m{m_tile}_l{lanes}"),
            Self::Rows { m_tile, n_tile } => write!(f, "rows_m{m_tile}_n{n_tile}"),
            Self::Tiled { m_tile } => write!(f, "tiled_{m_tile}x64"),
            Self::IntRows { m_tile } => write!(f, "int_rows_m{m_tile}"),
            Self::IntGemv { lanes, m_tile } => write!(f, "int_gemv_m{m_tile}_l{lanes}"),
            Self::IntTiled { m_tile } => write!(f, "int_tiled_{m_tile}x64"),
            Self::Coop { size } => write!(f, "coop_{size}"),
        }
    }
}

/// A text that is not the name of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no schedule `{0}`; names are like gemv_m4_l32, rows_m4_n2, tiled_64x64, int_rows_m4"
)]
pub struct UnknownSchedule(pub String);

/// Reads what [`Display`](std::fmt::Display) writes, and nothing else. [`Schedule::check`] tells
/// whether a device can run the schedule.
impl std::str::FromStr for Schedule {
    type Err = UnknownSchedule;

    fn from_str(text: &str) -> Result<Self, UnknownSchedule> {
        let (pattern, numbers) = split_numbers(text);
        let schedule = match (pattern.as_str(), &numbers[..]) {
            ("gemv_m#_l#", &[m_tile, lanes]) => Self::Gemv { lanes, m_tile },
            ("rows_m#_n#", &[m_tile, n_tile]) => Self::Rows { m_tile, n_tile },
            ("tiled_#x#", &[m_tile, 64]) => Self::Tiled { m_tile },
            ("int_rows_m#", &[m_tile]) => Self::IntRows { m_tile },
            ("int_gemv_m#_l#", &[m_tile, lanes]) => Self::IntGemv { lanes, m_tile },
            ("int_tiled_#x#", &[m_tile, 64]) => Self::IntTiled { m_tile },
            ("coop_#", &[size]) => Self::Coop { size },
            _ => return Err(UnknownSchedule(text.into())),
        };
        // No leading zeros, nothing that overflowed.
        if schedule.to_string() == text { Ok(schedule) } else { Err(UnknownSchedule(text.into())) }
    }
}

/// Splits `gemv_m4_l64` into `gemv_m#_l#` and 4, 64. A number that is too large for a `u32` counts
/// as 0.
fn split_numbers(text: &str) -> (String, Vec<u32>) {
    let (mut pattern, mut numbers) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = &rest[start..];
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        pattern.push_str(&rest[..start]);
        pattern.push('#');
        numbers.push(digits[..end].parse().unwrap_or(0));
        rest = &digits[end..];
    }
    pattern.push_str(rest);
    (pattern, numbers)
}

/// Returns the number of lanes that usually split K, and the largest number. Neither exceeds the
/// number of blocks, so that no lane idles from the start.
pub(super) fn gemv_lanes(k: u32) -> (u32, u32) {
    let lanes = |most| k.div_ceil(BLOCK_K as u32).clamp(1, most).next_power_of_two();
    (lanes(GEMV_WORKGROUP), lanes(256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for k in [1, 33, 64, 100, 128, 384, 640, 1024, 4096] {
            for schedule in Schedule::all(k) {
                assert_eq!(schedule.to_string().parse(), Ok(schedule));
            }
        }
        for bad in [
            "",
            "gemv",
            "gemv_m#_l#",
            "gemv_m1_l",
            "gemv_m01_l4",
            "gemv_m+1_l4",
            "gemv_m1_l4 ",
            "gemv_m1_l4_",
            "Gemv_m1_l4",
            "gemv_m4294967296_l4",
            "gemv_m1_l99999999999999999999",
            "rows_m1",
            "rows_m1_n-2",
            "tiled",
            "tiled_32x65",
            "tiled_032x64",
            "rows_m１_n2",
            "ö1",
        ] {
            assert_eq!(bad.parse::<Schedule>(), Err(UnknownSchedule(bad.into())));
        }
    }
}
