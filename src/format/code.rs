//! How one weight is stored, and what number a stored code is.

use half::f16;

/// The type that each weight is stored as.
///
/// A type with scales stores a *code*, whose number v(c) is multiplied by a scale. The number of an
/// integer code is the code itself less its zero point; the number of a codebook's code is an entry
/// of a table of 16 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CodeType {
    /// IEEE binary32 without scales. It is the baseline.
    F32,
    /// IEEE binary16 without scales.
    F16,
    /// 16-bit integer codes with scales. They are always symmetric, with f32 scales.
    Int16,
    /// 8-bit integer codes with scales.
    Int8,
    /// 6-bit integer codes with scales.
    Int6,
    /// 5-bit integer codes with scales.
    Int5,
    /// 4-bit integer codes with scales.
    Int4,
    /// 3-bit integer codes with scales.
    Int3,
    /// 2-bit integer codes with scales.
    Int2,
    /// 4-bit codes of the NormalFloat table of QLoRA (nf4): quantiles of a normal distribution.
    Nf4,
    /// 4-bit codes of the table that bitsandbytes calls af4, in descending order: AbnormalFloat for
    /// groups of 64.
    Af4,
    /// 4-bit codes of the table that bitsandbytes calls fp4: 0, 0.0625, 8, 12, 4, 6, 2 and 3, with a
    /// sign, divided by 12.
    Fp4,
    /// 4-bit floats with 2 exponent bits and 1 mantissa bit, as in MXFP4 and NVFP4: 0, 0.5, 1, 1.5,
    /// 2, 3, 4 and 6, with a sign.
    E2m1,
    /// 4-bit codes of the integer table of GGUF's IQ4_NL and IQ4_XS.
    Iq4Nl,
    /// 4-bit codes of a table that each matrix brings along.
    Codebook,
    /// 8-bit floats with 4 exponent bits and 3 mantissa bits, without infinities (e4m3fn).
    E4m3,
    /// 8-bit floats with 5 exponent bits and 2 mantissa bits.
    E5m2,
}

/// What a code is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CodeKind {
    /// The bits of an f32 or an f16, without a scale.
    Float,
    /// An integer. `zero` is the zero point of formats that do not store one.
    Integer { low: i32, high: i32, zero: i32 },
    /// An index into a table of 16 numbers; `None` if each matrix has a table of its own.
    Table(Option<&'static [f32; 16]>),
    /// An 8-bit float with this number of mantissa bits.
    Fp8 { mantissa: u32 },
}

/// Everything that is particular to one code type. To add one, add a row.
struct Row {
    name: &'static str,
    bits: u32,
    /// The bits of each code that the codes' buffer holds on a device. The bits above them are in
    /// planes in the side buffer, so that blocks of the codes' buffer keep sizes of 8, 16, 32, 64 or
    /// 128 bytes.
    low_bits: u32,
    kind: CodeKind,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const AF4: [f32; 16] = [
    1.0,
    0.724_248_65,
    0.554_962_34,
    0.425_638_82,
    0.316_756_66,
    0.219_612_74,
    0.129_344_83,
    0.042_731_64,
    0.0,
    -0.049_348_12,
    -0.149_824_78,
    -0.256_075_53,
    -0.373_695_1,
    -0.512_437_4,
    -0.694_410_1,
    -1.0,
];

const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_4,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -0.005_208_333_4,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

impl CodeType {
    /// Every code type: floats, integers from the widest to the narrowest, codebooks, 8-bit floats.
    pub const ALL: [CodeType; 17] = [
        Self::F32,
        Self::F16,
        Self::Int16,
        Self::Int8,
        Self::Int6,
        Self::Int5,
        Self::Int4,
        Self::Int3,
        Self::Int2,
        Self::Nf4,
        Self::Af4,
        Self::Fp4,
        Self::E2m1,
        Self::Iq4Nl,
        Self::Codebook,
        Self::E4m3,
        Self::E5m2,
    ];

    /// The code types that can be 2:4 sparse: floats, int16, int8 and int4.
    pub(crate) const WIDE: [CodeType; 5] =
        [Self::F32, Self::F16, Self::Int16, Self::Int8, Self::Int4];

    const fn row(self) -> Row {
        const fn unsigned(name: &'static str, bits: u32, low_bits: u32) -> Row {
            let kind = CodeKind::Integer { low: 0, high: (1 << bits) - 1, zero: 1 << (bits - 1) };
            Row { name, bits, low_bits, kind }
        }
        const fn whole(name: &'static str, bits: u32, kind: CodeKind) -> Row {
            Row { name, bits, low_bits: bits, kind }
        }
        const fn table(name: &'static str, table: Option<&'static [f32; 16]>) -> Row {
            whole(name, 4, CodeKind::Table(table))
        }
        match self {
            Self::F32 => whole("f32", 32, CodeKind::Float),
            Self::F16 => whole("f16", 16, CodeKind::Float),
            Self::Int16 => {
                whole("int16", 16, CodeKind::Integer { low: -32768, high: 32767, zero: 0 })
            }
            Self::Int8 => whole("int8", 8, CodeKind::Integer { low: -128, high: 127, zero: 0 }),
            Self::Int6 => unsigned("int6", 6, 4),
            Self::Int5 => unsigned("int5", 5, 4),
            Self::Int4 => unsigned("int4", 4, 4),
            Self::Int3 => unsigned("int3", 3, 2),
            Self::Int2 => unsigned("int2", 2, 2),
            Self::Nf4 => table("nf4", Some(&NF4)),
            Self::Af4 => table("af4", Some(&AF4)),
            Self::Fp4 => table("fp4", Some(&FP4)),
            Self::E2m1 => table("e2m1", Some(&E2M1)),
            Self::Iq4Nl => table("iq4nl", Some(&IQ4_NL)),
            Self::Codebook => table("codebook", None),
            Self::E4m3 => whole("e4m3", 8, CodeKind::Fp8 { mantissa: 3 }),
            Self::E5m2 => whole("e5m2", 8, CodeKind::Fp8 { mantissa: 2 }),
        }
    }

    /// Returns what a code is.
    pub(crate) const fn kind(self) -> CodeKind {
        self.row().kind
    }

    /// Returns the number of bits of one stored code.
    pub const fn bits(self) -> u32 {
        self.row().bits
    }

    /// Returns the number of bits of each code in the codes' buffer of a device. The others are in
    /// planes in the side buffer; see [`DeviceLayout`](super::DeviceLayout).
    pub const fn low_bits(self) -> u32 {
        self.row().low_bits
    }

    /// Returns the number of bits of each code in the planes of the side buffer: 1 for int3 and
    /// int5, 2 for int6, and 0 for all others.
    pub const fn plane_bits(self) -> u32 {
        let row = self.row();
        row.bits - row.low_bits
    }

    /// Returns whether the codes are integers.
    pub const fn is_integer(self) -> bool {
        matches!(self.kind(), CodeKind::Integer { .. })
    }

    /// Returns whether the codes are multiplied by scales: true for all but f32 and f16.
    pub const fn has_scales(self) -> bool {
        !matches!(self.kind(), CodeKind::Float)
    }

    /// Returns whether the codes are signed integers, which are sign-extended where they are read.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Int16 | Self::Int8)
    }

    /// Returns the usual name, for example `f32`, `int4`, `nf4` or `e4m3`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the table of a codebook whose table is the same for every matrix.
    pub const fn table(self) -> Option<&'static [f32; 16]> {
        match self.kind() {
            CodeKind::Table(table) => table,
            _ => None,
        }
    }

    /// Returns the number that a code is, before it is scaled: v(c). `code` is as
    /// [`PackedWeights::code`](super::PackedWeights::code) returns it, `zero` is the zero point of its
    /// group, and `codebook` is the table of a matrix that has one of its own.
    pub(crate) fn number(self, code: i32, zero: i32, codebook: &[f32]) -> f32 {
        match self.kind() {
            CodeKind::Float if self == Self::F16 => f16::from_bits(code as u16).to_f32(),
            CodeKind::Float => f32::from_bits(code as u32),
            CodeKind::Integer { .. } => (code - zero) as f32,
            CodeKind::Table(table) => {
                let table = table.map_or(codebook, |table| table.as_slice());
                table.get(code as usize & 15).copied().unwrap_or(0.0)
            }
            CodeKind::Fp8 { mantissa } => fp8_to_f32(code as u8, mantissa),
        }
    }

    /// Returns the zero point of integer formats that store none: half the range of unsigned codes,
    /// for example 8 for int4, and 0 for all others.
    pub const fn fixed_zero(self) -> i32 {
        match self.kind() {
            CodeKind::Integer { zero, .. } => zero,
            _ => 0,
        }
    }
}

/// Returns the number that an e4m3 (`mantissa` = 3) or e5m2 (`mantissa` = 2) code is. Every such
/// number is an f32.
pub(crate) fn fp8_to_f32(code: u8, mantissa: u32) -> f32 {
    let exponent_bits = 7 - mantissa;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let magnitude = u32::from(code & 0x7f);
    let (exponent, fraction) = (magnitude >> mantissa, magnitude & ((1 << mantissa) - 1));
    let scale = |exponent: i32| 2f32.powi(exponent - mantissa as i32);
    let all_ones = (1 << exponent_bits) - 1;
    let value = if mantissa == 3 && magnitude == 0x7f {
        f32::NAN
    } else if mantissa == 2 && exponent == all_ones {
        if fraction == 0 { f32::INFINITY } else { f32::NAN }
    } else if exponent == 0 {
        fraction as f32 * scale(1 - bias)
    } else {
        (fraction + (1 << mantissa)) as f32 * scale(exponent as i32 - bias)
    };
    if code & 0x80 == 0 { value } else { -value }
}

/// Returns the number that an e8m0 byte is: a power of two, or NaN for 255.
pub(crate) fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        // 2⁻¹²⁷ is subnormal in f32.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_by_hand() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xc0, -2.0),
        ] {
            assert_eq!(fp8_to_f32(code, 3), value, "{code:#x}");
        }
        assert!(fp8_to_f32(0x7f, 3).is_nan() && fp8_to_f32(0xff, 3).is_nan());
        for (code, value) in [
            (0x01, 1.0 / 65536.0),
            (0x04, 1.0 / 16384.0),
            (0x3c, 1.0),
            (0x7b, 57344.0),
            (0xbe, -1.5),
            (0x7c, f32::INFINITY),
        ] {
            assert_eq!(fp8_to_f32(code, 2), value, "{code:#x}");
        }
        assert!(fp8_to_f32(0x7d, 2).is_nan());
    }

    #[test]
    fn powers_of_two() {
        assert_eq!(e8m0_to_f32(127), 1.0);
        assert_eq!(e8m0_to_f32(254), 2f32.powi(127));
        assert_eq!(f64::from(e8m0_to_f32(0)), 2f64.powi(-127));
        assert!(e8m0_to_f32(255).is_nan());
    }

    #[test]
    fn fp4_is_a_table_divided_by_12() {
        for (code, twelfths) in [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0].into_iter().enumerate()
        {
            assert_eq!(FP4[code], (twelfths / 12.0f64) as f32, "{code}");
            assert_eq!(FP4[code].to_bits() | 1 << 31, FP4[code + 8].to_bits());
        }
    }

    #[test]
    fn planes() {
        for code_type in CodeType::ALL {
            assert!([2, 4, 8, 16, 32].contains(&code_type.low_bits()));
            assert_eq!(code_type.low_bits() + code_type.plane_bits(), code_type.bits());
        }
    }
}
