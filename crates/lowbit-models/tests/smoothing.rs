//! SmoothQuant on a whole encoder.

use crate::common::{host, linear};
use crate::tiny_bert;
use lowbit::compress::calibrate::{Observer, Statistics};
use lowbit::host::Host;
use lowbit_models::architecture;
use lowbit_models::bert::{Dense, Encoder};
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::compress::{
    ActivationPlan, ActivationRequest, AlphaError, AlphaSearch, Chosen, SmoothRequest, Smoothing,
    search_alpha,
};
use pollster::block_on;
use std::cell::RefCell;
use std::sync::Arc;

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

/// One α for all layers is never worse than 0.5 and than not to smooth, and better where inputs have outliers.
#[test]
fn one_alpha_is_found_on_rows_of_the_inputs() {
    if host().is_none() {
        return;
    }
    let host = Arc::new(Host::new().unwrap());
    let folder = tempfile::tempdir().unwrap();
    tiny_bert::write(folder.path(), &tiny_bert::tensors());
    let model = ModelFile::open(folder.path().join("model.safetensors")).unwrap();
    let blueprint = architecture::read(&model).unwrap();
    let texts: Vec<Vec<u32>> =
        (0..9).map(|text| (0..8).map(|at| (text * 7 + at * 3 + at * at) % 10).collect()).collect();
    let search = AlphaSearch {
        blueprint: &blueprint,
        texts: &texts,
        step: 16,
        rows: 50,
        alphas: AlphaSearch::usual_alphas(),
    };
    let matrices = |scheme: &str| -> Vec<Chosen<'_>> {
        let parts = ["query", "key", "value", "dense"].map(|part| format!("{part}.weight"));
        let matrix = |name: &str| parts.iter().any(|part| name.ends_with(part.as_str()));
        let tensors = model.tensors().filter(|tensor| matrix(tensor.name));
        tensors.map(|tensor| Chosen::new(tensor, scheme.parse().unwrap())).collect()
    };
    for (scheme, format) in
        [("int8-channel", "int8-token"), ("int8-channel", "int8-tensor"), ("int4-g32", "int8-g32")]
    {
        let selected = matrices(scheme);
        assert_eq!(selected.len(), 6);
        let request = ActivationRequest {
            format: Some(format.parse().unwrap()),
            fixed: false,
            ranges: None,
            smooth: SmoothRequest::None,
        };
        let mut stages = 0;
        let mut count = |_| stages += 1;
        let find = search_alpha(&host, &model, &selected, &request, &search, &mut count);
        let found = block_on(find).unwrap();
        let error = found.error(found.alpha).unwrap();
        let (before, half) = (found.error(None).unwrap(), found.error(Some(0.5)).unwrap());
        println!("{scheme} {format}: {:?}: {error:.5}, {before:.5}, {half:.5}", found.alpha);
        assert_eq!((stages, found.rows, found.weights.len()), (1, 50, 6));
        assert!(error <= before && error <= half);
        if scheme == "int8-channel" {
            assert!(found.alpha.is_some() && error < 0.8 * before, "{error} of {before}");
        }
        let squares: f64 = found.weights.iter().map(|weight| weight.found.powi(2)).sum();
        assert!(((squares / 6.0).sqrt() / error - 1.0).abs() < 1e-12);
        assert!(found.weights.iter().all(|weight| weight.best <= weight.found.min(weight.before)));
        // The plan of the α needs nothing but what the search saw.
        let smooth = found.alpha.map_or(SmoothRequest::None, SmoothRequest::Alpha);
        let request = ActivationRequest { ranges: Some(&found.ranges), smooth, ..request };
        let plan = ActivationPlan::new(&request, &model, &selected).unwrap();
        assert_eq!(plan.smoothing.is_some(), found.alpha.is_some());
    }
    let mut selected = matrices("int8-channel");
    let position = model.tensor("embeddings.position_embeddings.weight").unwrap();
    selected.push(Chosen::new(position, "int8-channel".parse().unwrap()));
    let request =
        ActivationRequest { format: None, fixed: false, ranges: None, smooth: SmoothRequest::None };
    let mut nothing = |_| ();
    let find = search_alpha(&host, &model, &selected, &request, &search, &mut nothing);
    let error = block_on(find).unwrap_err();
    assert!(matches!(error, AlphaError::Unseen { .. }), "{error}");
}
