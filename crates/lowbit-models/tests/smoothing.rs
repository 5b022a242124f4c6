//! SmoothQuant on a whole encoder.

use crate::common::linear;
use crate::tiny_bert;
use lowbit::compress::calibrate::{Observer, Statistics};
use lowbit_models::bert::{Dense, Encoder};
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::compress::Smoothing;
use std::cell::RefCell;

/// Runs all that smoothing changes in plain f32: the embeddings keep every bit.
#[test]
fn the_network_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    tiny_bert::write(folder.path(), &tiny_bert::tensors());
    let encoder = Encoder::open(folder.path()).unwrap();
    let model = ModelFile::open(folder.path().join("model.safetensors")).unwrap();
    let by_channels = |dense: &Dense| Observer::channels(dense.weight_name(), dense.k).with_bins(0);
    let seen = encoder.linears().map(|dense| Statistics::new(by_channels(dense)).unwrap());
    let seen = RefCell::new(seen.collect::<Vec<_>>());
    let embed = |text: &str| {
        encoder.embed(text, &|dense, x, _| {
            seen.borrow_mut()[dense.index].observe(x)?;
            Ok(linear(x, &dense.weight, &dense.bias, dense.k))
        })
    };
    let before: Vec<_> = tiny_bert::TEXT.iter().map(|text| embed(text).unwrap()).collect();
    let seen = seen.take();
    let channels = seen.iter().map(|seen| (seen.layer(), seen)).collect();
    let selected: Vec<_> = model
        .tensors()
        .filter(|tensor| seen.iter().any(|seen| seen.layer() == tensor.name))
        .collect();
    assert_eq!(selected.len(), 6);

    let smoothing = Smoothing::new(&model, &selected, &channels, Some(0.5)).unwrap();
    let changed: Vec<_> = encoder
        .linears()
        .map(|dense| {
            let tensor = model.tensor(&dense.weight_name()).unwrap();
            let bias = model.tensor(&format!("{}.bias", dense.name)).unwrap();
            let bias: Vec<f32> = smoothing
                .plain(&bias)
                .unwrap()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            (smoothing.weight(&tensor).unwrap(), bias, smoothing.factors(tensor.name))
        })
        .collect();
    for (dense, (weights, bias, factors)) in encoder.linears().zip(&changed) {
        assert_ne!(*weights, dense.weight, "{}", dense.name);
        assert_eq!(*bias != dense.bias, dense.name.ends_with("value"), "{}", dense.name);
        // Only the factors of the output projection are folded, into the values.
        let folded = dense.name.ends_with("attention.output.dense");
        assert_eq!(factors.is_none(), folded, "{}", dense.name);
    }
    assert!(changed[0].2 == changed[1].2 && changed[0].2 == changed[2].2);
    let mut most = vec![0.0f32; 6];
    for (text, before) in tiny_bert::TEXT.iter().zip(&before) {
        let largest = RefCell::new(&mut most);
        let after = encoder.embed(text, &|dense, x, _| {
            let (weights, bias, factors) = &changed[dense.index];
            let ones = vec![1.0; dense.k];
            let factors = factors.unwrap_or(&ones);
            let x: Vec<f32> = x.iter().zip(factors.iter().cycle()).map(|(x, s)| x / s).collect();
            let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let most = &mut largest.borrow_mut()[dense.index];
            *most = most.max(top);
            Ok(linear(&x, weights, bias, dense.k))
        });
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&after.unwrap()), bits(before));
    }
    // The smoothed X, folded or divided, fills the range that its scale follows from.
    for (dense, most) in encoder.linears().zip(most) {
        assert_eq!(smoothing.range(&dense.weight_name()).unwrap().absmax(), most, "{}", dense.name);
    }
}
