//! What `inspect` and `import` report about safetensors and GGUF models.

use crate::activations::ActivationsJson;
use crate::error::{CliError, printable};
use crate::report::{self, bits_per_weight};
use lowbit_models::architecture;
use lowbit_models::checkpoint::source::{
    Family, Item, ItemKind, ModelSource, Omission, Role, SourceError,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Serialize)]
struct Row {
    name: String,
    compressed: bool,
    /// A weight format (`int4-g64-asym`), an element type (`F32`) or a type of GGUF (`Q4_K`).
    format: String,
    shape: Vec<usize>,
    weights: usize,
    bytes: usize,
    bits_per_weight: f64,
    /// What the tensor does in the network, if the architecture or its name says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// How X of a compressed weight becomes codes, if the file says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<ActivationsJson>,
    /// The reason why lowbit cannot read the tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsupported: Option<String>,
}

#[derive(Serialize)]
struct Totals {
    tensors: usize,
    compressed: usize,
    weights: usize,
    bytes: usize,
    bits_per_weight: f64,
    /// The bits of a compressed weight on average.
    compressed_bits_per_weight: f64,
    unsupported: usize,
    file_bytes: usize,
}

/// What a model contains.
#[derive(Serialize)]
pub struct Listing {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// The family of formats: `safetensors` or `GGUF`.
    family: String,
    /// A version of the format, or how the weights are quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    /// The name that the model gives itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    files: Vec<String>,
    metadata: Value,
    tensors: Vec<Row>,
    left_out: Vec<Left>,
    warnings: Vec<String>,
    /// The reason why the weights are not read, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    totals: Totals,
}

/// Something in the model that is not imported.
#[derive(Serialize)]
struct Left {
    name: String,
    what: String,
    why: String,
}

impl Listing {
    /// Lists what an open model contains. `output` is where it is imported to.
    pub fn new(
        file: &Path,
        output: Option<&Path>,
        model: &dyn ModelSource,
    ) -> Result<Self, SourceError> {
        let roles = architecture::roles(model);
        let rows = model.items()?.into_iter().map(|item| {
            let role = roles.get(&item.name).copied();
            row(model, item, role)
        });
        let tensors: Vec<Row> = rows.collect::<Result<_, _>>()?;
        let metadata = match model.family() {
            Family::Safetensors => {
                let pairs = model.metadata().into_iter();
                Value::Object(pairs.map(|(key, value)| (key, value.into())).collect())
            }
            _ => model.config().clone(),
        };
        let named = ["general.name", "_name_or_path"];
        let name = named.iter().find_map(|key| model.config().get(key)?.as_str());
        Ok(Self {
            file: file.display().to_string(),
            output: output.map(|path| path.display().to_string()),
            family: model.family().to_string(),
            variant: model.variant(),
            architecture: model.architecture().map(str::to_owned),
            name: name.filter(|name| !name.is_empty()).map(str::to_owned),
            files: model.files(),
            metadata,
            left_out: model.omissions().into_iter().map(Left::new).collect(),
            warnings: model.warnings(),
            refused: model.refusal().map(|error| format!("{error}; {}", error.next_step())),
            totals: totals(&tensors, model.file_bytes()),
            tensors,
        })
    }

    /// Formats the listing as text.
    pub fn text(&self) -> String {
        let roles = self.tensors.iter().any(|row| row.role.is_some());
        let activations = self.tensors.iter().any(|row| row.activations.is_some());
        let mut header = vec!["tensor"];
        header.extend(roles.then_some("role"));
        header.extend(["format", "shape", "size", "bits/weight"]);
        header.extend(activations.then_some("activations"));
        let mut table = report::table(&header, false);
        for row in &self.tensors {
            let mut cells = vec![printable(&row.name).into()];
            if roles {
                cells.push(row.role.clone().unwrap_or_default().into());
            }
            cells.extend([
                row.format.clone().into(),
                report::shape(&row.shape).into(),
                report::right(report::bytes(row.bytes as u64)),
                report::right(format!("{:.3}", row.bits_per_weight)),
            ]);
            if let Some(activations) = &row.activations {
                cells.push(activations.to_string().into());
            }
            table.add_row(cells);
        }
        let mut text = format!("{}\n\n{}", self.about(), report::text(&table));
        let totals = &self.totals;
        text.push_str(&format!(
            "{}, {} compressed: {} in {:.3} bits a weight",
            report::count(totals.tensors, "tensor"),
            totals.compressed,
            report::bytes(totals.bytes as u64),
            totals.bits_per_weight,
        ));
        if totals.compressed > 0 {
            let bits = totals.compressed_bits_per_weight;
            text.push_str(&format!(", {bits:.3} where compressed"));
        }
        if let Some(output) = &self.output {
            text.push_str(&format!(" → {}", printable(output)));
        }
        text.push('\n');
        text.push_str(&self.unsupported());
        text.push_str(&self.left_out());
        for warning in &self.warnings {
            text.push_str(&format!("note: {}\n", printable(warning)));
        }
        if let Some(refused) = &self.refused {
            text.push_str(&format!("cannot be imported: {}\n", printable(refused)));
        }
        text
    }

    /// Returns a line that says what model it is.
    fn about(&self) -> String {
        let mut about = self.family.clone();
        if let Some(variant) = &self.variant {
            about.push_str(&format!(", {variant}"));
        }
        if self.files.len() > 1 {
            about.push_str(&format!(", in {} files", self.files.len()));
        }
        for (what, text) in [("architecture", &self.architecture), ("name", &self.name)] {
            if let Some(text) = text {
                about.push_str(&format!(", {what} {text}"));
            }
        }
        printable(&about)
    }

    /// Returns a line for each reason why something is left out.
    fn left_out(&self) -> String {
        let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for Left { name, what, why } in &self.left_out {
            reasons.entry((what, why)).or_default().push(name);
        }
        let line = |((what, why), names): ((&str, &str), Vec<&str>)| {
            let some: Vec<&str> = names.iter().take(3).copied().collect();
            let more = if names.len() > some.len() { ", …" } else { "" };
            let list = format!("{}{more}", some.join(", "));
            let line = format!("left out: {} × {what} ({list}): {why}", names.len());
            format!("{}\n", printable(&line))
        };
        reasons.into_iter().map(line).collect()
    }

    /// Returns a line for each reason why tensors cannot be read.
    fn unsupported(&self) -> String {
        let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for row in &self.tensors {
            if let Some(why) = &row.unsupported {
                *reasons.entry((&row.format, why)).or_default() += 1;
            }
        }
        let line = |((format, why), count): ((&str, &str), usize)| {
            format!("cannot be imported: {count} × {}: {}\n", printable(format), printable(why))
        };
        reasons.into_iter().map(line).collect()
    }
}

impl Left {
    fn new(omission: Omission) -> Self {
        let Omission { name, what, why, .. } = omission;
        Self { name, what, why }
    }
}

fn row(model: &dyn ModelSource, item: Item, role: Option<Role>) -> Result<Row, SourceError> {
    let (weights, compressed) = (item.elements(), !matches!(item.kind, ItemKind::Plain(_)));
    let activations = if compressed { model.activations(&item.name)? } else { None };
    Ok(Row {
        compressed,
        weights,
        bits_per_weight: bits_per_weight(item.bytes, weights),
        role: role.map(|role| role.to_string()),
        activations: activations.as_ref().map(Into::into),
        unsupported: match item.kind {
            ItemKind::Unsupported(why) => Some(why),
            _ => None,
        },
        name: item.name,
        format: item.stored,
        shape: item.shape,
        bytes: item.bytes,
    })
}

fn totals(rows: &[Row], file_bytes: usize) -> Totals {
    let sum = |compressed_only: bool, count: fn(&Row) -> usize| -> usize {
        rows.iter().filter(|row| row.compressed || !compressed_only).map(count).sum()
    };
    let (weights, bytes) = (sum(false, |row| row.weights), sum(false, |row| row.bytes));
    let (packed, packed_bytes) = (sum(true, |row| row.weights), sum(true, |row| row.bytes));
    Totals {
        tensors: rows.len(),
        compressed: sum(true, |_| 1),
        weights,
        bytes,
        bits_per_weight: bits_per_weight(bytes, weights),
        compressed_bits_per_weight: bits_per_weight(packed_bytes, packed),
        unsupported: sum(false, |row| usize::from(row.unsupported.is_some())),
        file_bytes,
    }
}

/// Says that a model cannot be listed.
pub fn damaged(file: &Path, error: SourceError) -> CliError {
    CliError::new(format!("`{}` is damaged", file.display()))
        .because(error)
        .hint("download the file again, or make it again with `lowbit compress`")
}
