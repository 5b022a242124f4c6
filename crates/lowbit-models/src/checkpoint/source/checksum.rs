//! A checksum of all that a model contains.

use super::{Data, ModelSource, SourceError};
use crate::checkpoint::parts::Part;
use crate::checksum::Fnv;

/// Returns FNV-1a of the configuration of a model and of the names, shapes and data of everything in it. It is the same
/// on every machine. The whole model is read, one item after the other.
///
/// # Errors
/// Returns [`SourceError`] if an item cannot be read.
pub fn model_checksum(model: &dyn ModelSource) -> Result<u64, SourceError> {
    let mut sum = Fnv::default().with(model.config().to_string().as_bytes());
    for item in model.items()? {
        let about = format!("\0{}\0{}\0{:?}\0", item.name, item.stored, item.shape);
        sum = sum.with(about.as_bytes());
        match model.read(&item.name) {
            Ok(Data::Plain(bytes)) => sum = sum.with(&bytes[..]),
            Ok(Data::Compressed(weights)) => {
                sum = sum.with(weights.format().to_string().as_bytes());
                for part in Part::ALL {
                    part.write::<SourceError>(weights.parts(), &mut |bytes| {
                        sum = sum.with(bytes);
                        Ok(())
                    })?;
                }
            }
            // No format holds it, and no layer of the network reads it.
            Err(SourceError::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum.value())
}
