use super::Fragment;

const fn file(name: &'static str, text: &'static str) -> Fragment {
    Fragment { name, text }
}

/// Every fragment under `shaders/`.
pub const FRAGMENTS: &[Fragment] = &[
    file("access/codes16_u32", include_str!("../../shaders/access/codes16_u32.wgsl")),
    file("access/codes16_u64", include_str!("../../shaders/access/codes16_u64.wgsl")),
    file("access/codes32_u32", include_str!("../../shaders/access/codes32_u32.wgsl")),
    file("access/codes32_u64", include_str!("../../shaders/access/codes32_u64.wgsl")),
    file("access/codes8_u32", include_str!("../../shaders/access/codes8_u32.wgsl")),
    file("access/codes8_u64", include_str!("../../shaders/access/codes8_u64.wgsl")),
    file("access/x_f16", include_str!("../../shaders/access/x_f16.wgsl")),
    file("access/x_f32", include_str!("../../shaders/access/x_f32.wgsl")),
    file("access/x_f32x4", include_str!("../../shaders/access/x_f32x4.wgsl")),
    file("access/x_f32x4_u64", include_str!("../../shaders/access/x_f32x4_u64.wgsl")),
    file("access/y_f16", include_str!("../../shaders/access/y_f16.wgsl")),
    file("access/y_f32", include_str!("../../shaders/access/y_f32.wgsl")),
    file("decode/dense", include_str!("../../shaders/decode/dense.wgsl")),
    file("decode/f16", include_str!("../../shaders/decode/f16.wgsl")),
    file("decode/f16_24", include_str!("../../shaders/decode/f16_24.wgsl")),
    file("decode/f32", include_str!("../../shaders/decode/f32.wgsl")),
    file("decode/f32_24", include_str!("../../shaders/decode/f32_24.wgsl")),
    file("decode/general", include_str!("../../shaders/decode/general.wgsl")),
    file("decode/general_24", include_str!("../../shaders/decode/general_24.wgsl")),
    file("decode/int16", include_str!("../../shaders/decode/int16.wgsl")),
    file("decode/int16_24", include_str!("../../shaders/decode/int16_24.wgsl")),
    file("decode/int4", include_str!("../../shaders/decode/int4.wgsl")),
    file("decode/int4_24", include_str!("../../shaders/decode/int4_24.wgsl")),
    file("decode/int4_24_pair", include_str!("../../shaders/decode/int4_24_pair.wgsl")),
    file("decode/int8", include_str!("../../shaders/decode/int8.wgsl")),
    file("decode/int8_24", include_str!("../../shaders/decode/int8_24.wgsl")),
    file("decode/int8_offset", include_str!("../../shaders/decode/int8_offset.wgsl")),
    file("decode/scatter", include_str!("../../shaders/decode/scatter.wgsl")),
    file("decode/two_four", include_str!("../../shaders/decode/two_four.wgsl")),
    file("lib/bias", include_str!("../../shaders/lib/bias.wgsl")),
    file("lib/entry_plain", include_str!("../../shaders/lib/entry_plain.wgsl")),
    file("lib/entry_subgroup", include_str!("../../shaders/lib/entry_subgroup.wgsl")),
    file("lib/half", include_str!("../../shaders/lib/half.wgsl")),
    file("lib/half_pair", include_str!("../../shaders/lib/half_pair.wgsl")),
    file("lib/half_pair_native", include_str!("../../shaders/lib/half_pair_native.wgsl")),
    file("lib/matmul", include_str!("../../shaders/lib/matmul.wgsl")),
    file("lib/matrix16", include_str!("../../shaders/lib/matrix16.wgsl")),
    file("lib/matrix8", include_str!("../../shaders/lib/matrix8.wgsl")),
    file("lib/no_bias", include_str!("../../shaders/lib/no_bias.wgsl")),
    file("lib/panel", include_str!("../../shaders/lib/panel.wgsl")),
    file("lib/panel_codes", include_str!("../../shaders/lib/panel_codes.wgsl")),
    file("lib/part_direct", include_str!("../../shaders/lib/part_direct.wgsl")),
    file("lib/part_shared", include_str!("../../shaders/lib/part_shared.wgsl")),
    file("lib/quad", include_str!("../../shaders/lib/quad.wgsl")),
    file("lib/quads", include_str!("../../shaders/lib/quads.wgsl")),
    file("lib/reduce_subgroup", include_str!("../../shaders/lib/reduce_subgroup.wgsl")),
    file("lib/reduce_tree", include_str!("../../shaders/lib/reduce_tree.wgsl")),
    file("lib/softfloat", include_str!("../../shaders/lib/softfloat.wgsl")),
    file("limits/fma", include_str!("../../shaders/limits/fma.wgsl")),
    file("limits/read", include_str!("../../shaders/limits/read.wgsl")),
    file("quantize/codes", include_str!("../../shaders/quantize/codes.wgsl")),
    file("quantize/dequantize", include_str!("../../shaders/quantize/dequantize.wgsl")),
    file("quantize/make", include_str!("../../shaders/quantize/make.wgsl")),
    file("quantize/ranges", include_str!("../../shaders/quantize/ranges.wgsl")),
    file("quantize/record", include_str!("../../shaders/quantize/record.wgsl")),
    file("quantize/reset", include_str!("../../shaders/quantize/reset.wgsl")),
    file("quantize/scales", include_str!("../../shaders/quantize/scales.wgsl")),
    file("scale/aligned", include_str!("../../shaders/scale/aligned.wgsl")),
    file("scale/general", include_str!("../../shaders/scale/general.wgsl")),
    file("scale/none", include_str!("../../shaders/scale/none.wgsl")),
    file("scale/side", include_str!("../../shaders/scale/side.wgsl")),
    file("schedule/coop", include_str!("../../shaders/schedule/coop.wgsl")),
    file("schedule/gemv", include_str!("../../shaders/schedule/gemv.wgsl")),
    file("schedule/rows_m1", include_str!("../../shaders/schedule/rows_m1.wgsl")),
    file("schedule/rows_m4", include_str!("../../shaders/schedule/rows_m4.wgsl")),
    file("schedule/tiled", include_str!("../../shaders/schedule/tiled.wgsl")),
    file("sparse/metadata", include_str!("../../shaders/sparse/metadata.wgsl")),
    file("sparse/place", include_str!("../../shaders/sparse/place.wgsl")),
    file("sparse/prune", include_str!("../../shaders/sparse/prune.wgsl")),
];

/// The fragment of that name. Names are literals of this crate, and a test looks up
/// every one that a choice can compose.
///
/// # Panics
/// Where there is none.
pub(crate) fn fragment(name: &str) -> Fragment {
    match FRAGMENTS.iter().find(|f| f.name == name) {
        Some(fragment) => *fragment,
        None => panic!("no shader fragment {name}"),
    }
}
