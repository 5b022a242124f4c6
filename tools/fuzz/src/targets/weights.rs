//! Packed weights of any format, and what they become: device layouts and back, values, masks.

use super::pick::{self, Bytes};
use lowbit::compress::dequantize;
use lowbit::format::{DeviceImage, DeviceLayout, Mask24, PackedWeights, RowOrder};
use lowbit::reference::dequantize_f64;

pub fn run(data: &[u8]) {
    let mut u = Bytes::new(data);
    let format = pick::format(&mut u);
    let (n, k) = (pick::number(&mut u) as usize, pick::number(&mut u) as usize);
    let parts = pick::parts(&mut u, format, n, k);
    if let Some(packed) = parts.clone().and_then(pick::Parts::pack) {
        layouts(&packed);
        values(&packed);
    }
    if let Some(mask) = parts.and_then(|parts| Mask24::from_words(n, k, parts.metadata).ok()) {
        masks(&mask);
    }
    // Anything at all, of lengths that are right.
    let Ok(layout) = DeviceLayout::new(format, n, k, RowOrder::Rows) else { return };
    if n.saturating_mul(layout.code_words + layout.side_words) < 1 << 12 {
        let words = |u: &mut Bytes<'_>, count: usize| {
            (0..count).map(|_| u.arbitrary().unwrap_or(0)).collect()
        };
        let codes = words(&mut u, n * layout.code_words);
        let image = DeviceImage { codes, side: words(&mut u, n * layout.side_words) };
        if let Ok(packed) = layout.unpack(&image, &[]) {
            layouts(&packed);
        }
    }
}

/// Every layout holds the same, whole or in parts, and gives it back.
fn layouts(packed: &PackedWeights) {
    let (n, k) = (packed.n(), packed.k());
    let layout = |order| DeviceLayout::new(packed.format(), n, k, order).expect("a small layout");
    let (rows, panels) = (layout(RowOrder::Rows), layout(RowOrder::Panels));
    let image = rows.pack(packed, 0..n);
    assert_eq!((image.codes.len(), image.side.len()), rows.words(n));
    assert_eq!(rows.unpack(&image, &[]).as_ref(), Ok(packed));
    let other = panels.pack(packed, 0..n);
    assert_eq!((other.codes.len(), other.side.len()), panels.words(n));
    assert_eq!(panels.by_rows(&other, n).as_ref(), Ok(&image));
    let cut = n / 2;
    let (mut first, second) = (rows.pack(packed, 0..cut), rows.pack(packed, cut..n));
    first.codes.extend(second.codes);
    first.side.extend(second.side);
    assert_eq!(first, image);
    let sizes = packed.geometry().sizes();
    assert_eq!(sizes.codes, 4 * packed.codes().len());
    assert_eq!(sizes.metadata, 4 * packed.metadata().len());
    assert_eq!(sizes.weights, n * k);
}

/// The host's arithmetic and the oracle's, which share no code, agree.
fn values(packed: &PackedWeights) {
    let host = dequantize(packed);
    let oracle = dequantize_f64(packed).expect("weights that are legal");
    assert_eq!(host.len(), oracle.len());
    for (at, (&host, &oracle)) in host.iter().zip(&oracle).enumerate() {
        let exact = oracle as f32;
        let same = host == exact || host.is_nan() && exact.is_nan();
        assert!(same, "{at}: {host} where {oracle} is right");
    }
}

fn masks(mask: &Mask24) {
    let (n, k) = (mask.n(), mask.k());
    // Two of four that are there; a short last quad keeps what it can.
    let mask = Mask24::from_fn(n, k, |row, k| mask.keeps(row, k)).expect("at most two of four");
    assert_eq!(mask.to_enumerative().to_mask().as_ref(), Ok(&mask));
    assert_eq!(mask.to_bitmask().to_mask().as_ref(), Ok(&mask));
    assert_eq!(Mask24::from_words(n, k, mask.words().to_vec()).as_ref(), Ok(&mask));
}
