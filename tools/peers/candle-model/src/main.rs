//! candle's quantized Llama on the CPU. X is quantized to int8 for ggml's formats.

use candle_core::quantized::gguf_file::Content;
use candle_core::{D, Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use protocol::{Hello, ModelCase, Step, serve_model};
use std::error::Error;
use std::fs::File;
use std::io::BufReader;

fn main() -> Result<(), Box<dyn Error>> {
    serve_model(Hello { version: "0.11.1".into(), adapter: None, driver: None }, open)
}

fn open(case: &ModelCase) -> Result<(u32, Step), Box<dyn Error>> {
    let mut file = BufReader::new(File::open(&case.model)?);
    let content = Content::read(&mut file)?;
    let embedding = content.tensor_infos.get("token_embd.weight").ok_or("it has no embedding")?;
    let vocab = u32::try_from(embedding.shape.dim(0)?)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let step: Step = Box::new(move |tokens, position| {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        // At position 0 it forgets what it has read before.
        let logits = model.forward(&tokens, position)?;
        if !logits.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err("logits are not finite".into());
        }
        Ok(logits.argmax(D::Minus1)?.squeeze(0)?.to_scalar()?)
    });
    Ok((vocab, step))
}
