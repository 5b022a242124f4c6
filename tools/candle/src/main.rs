//! A feed-forward network with lowbit's layers beside candle's own: MiniLM's first one where
//! data/minilm is there, on embeddings of its own table, else one of random weights.
//!
//!     cargo run --release --manifest-path tools/candle/Cargo.toml [-- MODEL.safetensors]

use candle_core::{D, DType, Device, Module, Result, Tensor, safetensors};
use lowbit::host::Host;
use lowbit_candle::{Dense, FeedForward, Function, Linear};
use std::path::{Path, PathBuf};
use std::{error::Error, sync::Arc, time::Instant};

const FORMATS: [&str; 6] =
    ["f16", "int8-channel", "int8-g64-asym", "int4-g64-asym", "int4-channel", "2:4+int8-channel"];
/// Rows of X: sentences × tokens.
const BATCH: (usize, usize) = (8, 32);

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/minilm/model.safetensors"),
        PathBuf::from,
    );
    let host = Arc::new(Host::new()?);
    let (dense, x, what) = match path.exists() {
        true => {
            let (dense, x) = minilm(&path)?;
            (dense, x, "MiniLM's first feed-forward network, on rows of its embeddings")
        }
        false => {
            let (dense, x) = random()?;
            (dense, x, "a network of random weights (no data/minilm: `make model`)")
        }
    };
    println!("{what}\nX {:?}, W {:?} and its transpose", x.dims(), dense.up.w.dims());
    println!("lowbit on {}\n", host.adapter_info().name);
    let plain = dense.forward(&x)?;
    println!("{:18}{:>8}{:>14}{:>14}{:>10}", "format", "bits", "to candle", "to f32", "ms");
    for format in FORMATS {
        let network = compress(&host, &dense, format)?;
        // candle's own result, with the weights that the device holds.
        let same = FeedForward {
            up: dequantized(&host, &network.up, &dense.up)?,
            function: dense.function,
            down: dequantized(&host, &network.down, &dense.down)?,
        };
        let y = network.forward(&x)?;
        let start = Instant::now();
        network.forward(&x)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let bits = network.up.weights().sizes().bits_per_weight();
        let (to_same, to_plain) = (distance(&y, &same.forward(&x)?)?, distance(&y, &plain)?);
        println!("{format:18}{bits:8.2}{to_same:14.2e}{to_plain:14.2e}{ms:10.1}");
    }
    let start = Instant::now();
    dense.forward(&x)?;
    println!("{:18}{:8.2}{:>38.1}", "candle, f32", 32.0, start.elapsed().as_secs_f64() * 1e3);
    println!("\nto candle: relative distance to candle with the same weights, dequantized");
    println!("to f32: to candle with the weights before they were quantized");
    Ok(())
}

fn compress(
    host: &Arc<Host>,
    dense: &FeedForward<Dense>,
    format: &str,
) -> Result<FeedForward<Linear>> {
    let format = format.parse().map_err(candle_core::Error::wrap)?;
    let layer = |dense: &Dense| Linear::quantize(host, &dense.w, Some(&dense.b), &format);
    Ok(FeedForward { up: layer(&dense.up)?, function: dense.function, down: layer(&dense.down)? })
}

fn dequantized(host: &Host, layer: &Linear, dense: &Dense) -> Result<Dense> {
    let w = host.dequantize(layer.weights()).map_err(candle_core::Error::wrap)?;
    Ok(Dense { w: Tensor::from_vec(w, dense.w.shape(), &Device::Cpu)?, b: dense.b.clone() })
}

/// ‖a − b‖ / ‖b‖.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let norm = |x: &Tensor| x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
    Ok((norm(&(a - b)?)? / norm(b)?).sqrt())
}

/// The first layer's feed-forward network, and rows of the embedding table, each of mean 0 and
/// variance 1, as a LayerNorm leaves them.
fn minilm(path: &Path) -> Result<(FeedForward<Dense>, Tensor)> {
    let tensors = safetensors::load(path, &Device::Cpu)?;
    let get = |name: &str| -> Result<Tensor> {
        let tensor = tensors.iter().find(|(key, _)| key.ends_with(name)).map(|(_, t)| t.clone());
        tensor.ok_or_else(|| candle_core::Error::msg(format!("{name} is not in the file")))
    };
    let dense = |name: &str| -> Result<Dense> {
        let name = format!("encoder.layer.0.{name}.dense");
        Ok(Dense { w: get(&format!("{name}.weight"))?, b: get(&format!("{name}.bias"))? })
    };
    let (up, down) = (dense("intermediate")?, dense("output")?);
    let table = get("word_embeddings.weight")?;
    let (m, k) = (BATCH.0 * BATCH.1, table.dim(1)?);
    let rows = table.narrow(0, 2000, m)?;
    let rows = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
    let x = rows.broadcast_div(&rows.sqr()?.mean_keepdim(D::Minus1)?.sqrt()?)?;
    let x = x.reshape((BATCH.0, BATCH.1, k))?;
    Ok((FeedForward { up, function: Function::Gelu, down }, x))
}

fn random() -> Result<(FeedForward<Dense>, Tensor)> {
    let (k, inner) = (384, 1536);
    let normal =
        |deviation: f32, shape: &[usize]| Tensor::randn(0f32, deviation, shape, &Device::Cpu);
    let up = Dense { w: normal(0.05, &[inner, k])?, b: normal(0.1, &[inner])? };
    let down = Dense { w: normal(0.03, &[k, inner])?, b: normal(0.1, &[k])? };
    let x = normal(1.0, &[BATCH.0, BATCH.1, k])?;
    Ok((FeedForward { up, function: Function::Gelu, down }, x))
}
