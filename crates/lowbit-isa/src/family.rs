use crate::IsaError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A family of AMD GPUs, by the name that RADV knows it under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Family {
    /// RX 7900 series.
    Navi31,
    /// RX 6800 and 6900 series.
    Navi21,
    /// RX 9070 series. Mesa's own listing: LLVM 15 does not know it.
    Gfx1201,
    /// Radeon VII, MI50.
    Vega20,
    /// RX 480, 580.
    Polaris10,
}

/// What a GPU can do at most: the maker's published figures, not measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// The product.
    pub name: &'static str,
    /// Bytes a second from memory.
    pub memory: f64,
    /// Compute units.
    pub units: u32,
    /// Boost clock in Hz.
    pub clock: f64,
}

impl Peaks {
    /// Vector operations that lanes can issue in a second, one at a time: 64 a compute unit
    /// and clock on RDNA. The published f32 rates are twice that for a multiply-add (23.04
    /// TFLOP/s of an RX 6900 XT), and twice again where two are issued at once (61.44 of an
    /// RX 7900 XTX), which RADV uses in waves of 32 only.
    pub fn lane_operations(&self) -> f64 {
        f64::from(self.units) * 64.0 * self.clock
    }
}

const SETUP: &str = "scripts/setup-mesa25.sh unpacks it";
const SYSTEM: &str = "install mesa-vulkan-drivers";

impl Family {
    /// Every family that tests compile for.
    pub const ALL: [Self; 5] =
        [Self::Navi31, Self::Navi21, Self::Gfx1201, Self::Vega20, Self::Polaris10];

    /// `navi31`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Navi31 => "navi31",
            Self::Navi21 => "navi21",
            Self::Gfx1201 => "gfx1201",
            Self::Vega20 => "vega20",
            Self::Polaris10 => "polaris10",
        }
    }

    /// Returns whether it multiplies packed bytes (`v_dot4`).
    pub fn integer_dot(self) -> bool {
        self != Self::Polaris10
    }

    /// Returns whether it multiplies matrices (`v_wmma`); RADV aborts on such shaders elsewhere.
    pub fn matrix(self) -> bool {
        matches!(self, Self::Navi31 | Self::Gfx1201)
    }

    /// A product of the family. Sources: AMD's product pages. RX 7900 XTX: 96 compute units,
    /// 2.5 GHz boost, 384 bits of 20 Gbit/s. RX 6900 XT: 80, 2.25 GHz, 256 of 16 Gbit/s.
    pub fn peaks(self) -> Option<Peaks> {
        let peaks = |name, gigabytes: f64, units, gigahertz: f64| Peaks {
            name,
            memory: gigabytes * 1e9,
            units,
            clock: gigahertz * 1e9,
        };
        match self {
            Self::Navi31 => Some(peaks("RX 7900 XTX", 960.0, 96, 2.5)),
            Self::Navi21 => Some(peaks("RX 6900 XT", 512.0, 80, 2.25)),
            _ => None,
        }
    }

    /// Returns where the driver's manifest is looked for: Mesa 25 under `LOWBIT_MESA25`, or
    /// `target/mesa25`, as `scripts/setup-mesa25.sh` leaves it; the distribution's Mesa for older
    /// families.
    ///
    /// # Errors
    /// Returns [`IsaError::NoDriver`] if there is none.
    pub fn manifest(self) -> Result<PathBuf, IsaError> {
        let (path, hint) = match self {
            Self::Vega20 | Self::Polaris10 => {
                (PathBuf::from("/usr/share/vulkan/icd.d/radeon_icd.x86_64.json"), SYSTEM)
            }
            _ => {
                let folder = std::env::var_os("LOWBIT_MESA25")
                    .map_or_else(|| PathBuf::from("target/mesa25"), PathBuf::from);
                (folder.join("root/usr/share/vulkan/icd.d/radeon_icd.json"), SETUP)
            }
        };
        // Absolute: the loader looks for relative names elsewhere.
        path.canonicalize().map_err(|_| IsaError::NoDriver { family: self, path, hint })
    }

    /// Waves that a SIMD holds at once, from the vector registers of one lane and the bytes of
    /// workgroup memory of one group: the driver's own number is of no use, its null hardware
    /// has twice the registers for waves of 64.
    ///
    /// Sources: AMD's RDNA 2 and 3 and GCN 3 ISA documents; a compute unit has 64 KiB of
    /// workgroup memory for two SIMDs on RDNA, for four on GCN.
    pub fn waves(self, vgprs: u64, lds: u64, wave: u32, workgroup: u32) -> u64 {
        // Registers and granules for waves of 64.
        let (registers, granule, most, simds) = match self {
            Self::Navi31 | Self::Gfx1201 => (768, 12, 16, 2),
            Self::Navi21 => (512, 8, 16, 2),
            Self::Vega20 | Self::Polaris10 => (256, 4, 10, 4),
        };
        let halves = 64 / u64::from(wave.clamp(32, 64));
        let by_registers = registers * halves / vgprs.max(1).next_multiple_of(granule * halves);
        let group_waves = u64::from(workgroup.div_ceil(wave.max(1)));
        let by_memory = (65536 / lds.max(1)).saturating_mul(group_waves).div_ceil(simds);
        by_registers.min(by_memory).min(most)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|family| family.name() == text)
            .ok_or_else(|| format!("`{text}` is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves() {
        assert_eq!(Family::Navi31.waves(84, 1024, 64, 64), 9);
        assert_eq!(Family::Navi31.waves(84, 0, 32, 64), 16);
        assert_eq!(Family::Navi21.waves(80, 1024, 64, 64), 6);
        assert_eq!(Family::Polaris10.waves(84, 1024, 64, 64), 3);
        assert_eq!(Family::Navi21.waves(1, 0, 64, 64), 16);
        // Two groups of four waves for two SIMDs.
        assert_eq!(Family::Navi31.waves(32, 32768, 64, 256), 4);
    }
}
