//! What scales of other formats mean where this crate's formats have none.

/// Returns whether a scale makes every weight of its group 0: whether it is 0 or subnormal. Quantizers
/// give such scales to groups of zeros. What this crate quantizes has normal scales, so an importer of
/// ONNX files stores the scale 1 and the codes of zero instead, which are the same weights.
///
/// A subnormal scale counts as 0, as subnormal weights do everywhere in this crate. The weights of its
/// group would be smaller than 255 · 2⁻¹²⁶.
pub(super) fn is_dead(scale: f32) -> bool {
    scale.abs() < f32::MIN_POSITIVE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_subnormal_scales_are_dead() {
        for dead in [0.0, -0.0, 1e-40, -1e-40, f32::MIN_POSITIVE.next_down()] {
            assert!(is_dead(dead), "{dead}");
        }
        for live in [f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1.0, f32::NAN, f32::INFINITY] {
            assert!(!is_dead(live), "{live}");
        }
    }
}
