//! Statistics of the inputs of a model's linear layers in a file.

use super::statistics::{InputStatistics, MOST};
use super::text_part::{TextPart, Twice, joined};
use crate::checkpoint::{Dtype, Entry, IoError, ModelFile, ModelWriter, Tensor};
use crate::checksum::Fnv;
use crate::device::Input;
use lowbit::compress::layerwise::{Gram, LayerwiseError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The key of the metadata under which everything but the sums is.
const KEY: &str = "lowbit.statistics";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The bytes of a sum.
const SUM: usize = size_of::<i128>();

/// The error of a file of statistics that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the statistics in `{}` cannot be used: {why}", path.display())]
pub struct StatisticsError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub why: BadStatistics,
}

/// The reason why a file of statistics cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadStatistics {
    /// The file cannot be read, or is no safetensors file.
    #[error("{0}")]
    Io(#[from] IoError),
    /// The file has no statistics.
    #[error("it has no statistics of inputs; `lowbit observe` writes such files")]
    Absent,
    /// The file is of another version.
    #[error("its version is {0}; this crate reads version {VERSION}")]
    Version(u32),
    /// What it says about itself cannot be read.
    #[error("its description: {0}")]
    Json(serde_json::Error),
    /// It is of another model.
    #[error(
        "they are of another model: its checksum is {have:016x}, and that of this one {need:016x}"
    )]
    OtherModel {
        /// The checksum of the model.
        need: u64,
        /// The checksum in the file.
        have: u64,
    },
    /// It says nothing about the texts, or something that cannot be.
    #[error("it names no part of a text, or one without samples or tokens")]
    Parts,
    /// A part of a text is counted twice.
    #[error(transparent)]
    Twice(#[from] Twice),
    /// An input is not described as it must be.
    #[error("input `{input}`: {why}")]
    Input {
        /// The input, which has the name of the first weight that takes it.
        input: String,
        /// The reason.
        why: String,
    },
    /// A tensor has another type or shape, or is absent.
    #[error("the tensor `{name}` must be U64 {need:?}, and {have}")]
    Tensor {
        /// The tensor.
        name: String,
        /// The shape that it must have.
        need: Vec<usize>,
        /// What it is.
        have: String,
    },
    /// A tensor belongs to no input.
    #[error("the tensor `{0}` belongs to no input")]
    Unknown(String),
    /// The checksum of sums is another one.
    #[error("the sums of input `{input}` are damaged: their checksum is not the one in the file")]
    Damaged {
        /// The input.
        input: String,
    },
    /// Sums cannot be those of any rows.
    #[error("the sums of input `{input}` are not those of any rows: {why}")]
    Sums {
        /// The input.
        input: String,
        /// The reason.
        why: LayerwiseError,
    },
    /// A sum of squares or of magnitudes is negative.
    #[error("the sums of input `{input}`: the {what} of column {column} is negative")]
    Negative {
        /// The input.
        input: String,
        /// Which sum.
        what: &'static str,
        /// The column.
        column: usize,
    },
}

/// What the file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    /// The checksum of the model.
    model: u64,
    parts: Vec<TextPart>,
    inputs: BTreeMap<String, Described>,
}

/// What the file says about an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    pub columns: usize,
    /// The weights that take it.
    pub weights: Vec<String>,
}

/// Statistics of the inputs of all linear layers of a model, as it is: XᵀX as sums of 128 bits in units of 2⁻⁷², and the
/// sums of |x|. Sums of parts of a text, or of several texts, add up exactly.
///
/// It is a safetensors file. An input has the name of the first weight that takes it:
///
/// | tensor | type | shape | |
/// |---|---|---|---|
/// | `NAME.gram` | U64 | `[k · (k + 1) / 2, 2]` | the upper triangle of XᵀX, row by row; of each sum the low word first, in two's complement |
/// | `NAME.abs` | U64 | `[k, 2]` | Σ\|x\| of each column |
/// | `NAME.checksum` | U64 | `[1]` | FNV-1a of the number of rows (8 bytes) and of the bytes of both |
///
/// The key `lowbit.statistics` of the file's metadata is JSON: the version, a checksum of the model, the parts of texts
/// ([`TextPart`]), and the columns and weights of each input. X has a row for each token of these parts.
#[derive(Debug)]
pub struct StatisticsFile {
    file: ModelFile,
    path: PathBuf,
    about: Description,
}

impl StatisticsFile {
    /// Opens a file, and checks all but the sums, which are read input by input.
    ///
    /// # Errors
    /// Returns [`StatisticsError`] if the file cannot be read, or is not such a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StatisticsError> {
        let path = path.as_ref();
        let bad = |why| StatisticsError { path: path.to_owned(), why };
        let file = ModelFile::open(path).map_err(|error| bad(error.into()))?;
        Self::new(file, path)
    }

    /// Does the same for the bytes of a file.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, StatisticsError> {
        let path = Path::new("");
        let bad = |why| StatisticsError { path: path.to_owned(), why };
        let file = ModelFile::from_bytes(bytes).map_err(|error| bad(error.into()))?;
        Self::new(file, path)
    }

    fn new(file: ModelFile, path: &Path) -> Result<Self, StatisticsError> {
        let about = described(&file);
        let path = path.to_owned();
        match about {
            Ok(about) => Ok(Self { file, path, about }),
            Err(why) => Err(StatisticsError { path, why }),
        }
    }

    fn bad(&self, why: BadStatistics) -> StatisticsError {
        StatisticsError { path: self.path.clone(), why }
    }

    /// Returns the parts of texts that the statistics are of.
    pub fn parts(&self) -> &[TextPart] {
        &self.about.parts
    }

    /// Returns the number of columns of each input, and the weights that take it.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (usize, &[String])> {
        self.about.inputs.values().map(|input| (input.columns, &input.weights[..]))
    }

    /// Checks that the statistics are of a model with this [checksum](crate::checkpoint::source::model_checksum).
    ///
    /// # Errors
    /// Returns [`BadStatistics::OtherModel`] as a [`StatisticsError`].
    pub fn check_model(&self, checksum: u64) -> Result<(), StatisticsError> {
        let have = self.about.model;
        if have == checksum {
            return Ok(());
        }
        Err(self.bad(BadStatistics::OtherModel { need: checksum, have }))
    }

    /// Reads the statistics of an input.
    ///
    /// # Errors
    /// Returns [`StatisticsError`] if the file has no such input, or its sums are damaged.
    pub(super) fn read(&self, input: &Input) -> Result<InputStatistics, StatisticsError> {
        let names = input.weights();
        let first = names.first().copied().unwrap_or_default();
        let why = match self.about.inputs.get(first) {
            Some(found) if names.iter().eq(&found.weights) => {
                return self.sums(first, found.columns).map_err(|why| self.bad(why));
            }
            Some(_) => "other weights take it in the model",
            None => "it is not there",
        };
        Err(self.bad(BadStatistics::Input { input: first.to_owned(), why: why.to_owned() }))
    }

    /// Reads every input in turn, and checks its sums.
    ///
    /// # Errors
    /// Returns [`StatisticsError`] if sums are damaged, or cannot be those of any rows.
    pub fn check_sums(&self) -> Result<(), StatisticsError> {
        for (name, input) in &self.about.inputs {
            self.sums(name, input.columns).map_err(|why| self.bad(why))?;
        }
        Ok(())
    }

    fn sums(&self, name: &str, columns: usize) -> Result<InputStatistics, BadStatistics> {
        let tensor = |own: &str| {
            let tensor = self.file.tensor(&format!("{name}.{own}"));
            tensor.map(|tensor| tensor.bytes).unwrap_or_default()
        };
        let (gram, abs) = (tensor("gram"), tensor("abs"));
        let input = || name.to_owned();
        let rows = self.about.parts.iter().map(|part| part.tokens).sum();
        if tensor("checksum") != checksum(rows, gram, abs).to_le_bytes() {
            return Err(BadStatistics::Damaged { input: input() });
        }
        let refuse = |why| BadStatistics::Sums { input: input(), why };
        let gram = Gram::from_parts(columns, rows, sums(gram)).map_err(refuse)?;
        let abs = sums(abs);
        let negative = |what, column| BadStatistics::Negative { input: input(), what, column };
        if let Some(column) = (0..columns).find(|&column| gram.value(column, column) < 0.0) {
            return Err(negative("sum of squares", column));
        }
        if let Some(column) = abs.iter().position(|&sum| sum < 0) {
            return Err(negative("sum of magnitudes", column));
        }
        if let Some(column) = abs.iter().position(|&sum| sum > MOST) {
            return Err(refuse(LayerwiseError::Overflow { first: column, second: column }));
        }
        Ok(InputStatistics { gram, abs })
    }
}

fn checksum(rows: u64, gram: &[u8], abs: &[u8]) -> u64 {
    Fnv::default().with(&rows.to_le_bytes()).with(gram).with(abs).value()
}

/// Returns sums, of which each is 16 bytes.
fn sums(bytes: &[u8]) -> Vec<i128> {
    let (sums, _) = bytes.as_chunks::<SUM>();
    sums.iter().map(|bytes| i128::from_le_bytes(*bytes)).collect()
}

/// Returns the tensors of an input, with the parts of their names and their shapes, or `None` if a size overflows.
fn layout(columns: usize) -> Option<[(&'static str, Vec<usize>); 3]> {
    let entries = columns.checked_mul(columns.checked_add(1)?)? / 2;
    Some([("gram", vec![entries, 2]), ("abs", vec![columns, 2]), ("checksum", vec![1])])
}

/// Reads and checks what a file says about itself.
fn described(file: &ModelFile) -> Result<Description, BadStatistics> {
    /// Reads the version and skips everything else.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let text = file.metadata().get(KEY).ok_or(BadStatistics::Absent)?;
    let Version { version } = serde_json::from_str(text).map_err(BadStatistics::Json)?;
    if version != VERSION {
        return Err(BadStatistics::Version(version));
    }
    let mut about: Description = serde_json::from_str(text).map_err(BadStatistics::Json)?;
    about.parts = joined(about.parts)?;
    let tokens = about.parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.tokens));
    let empty = about.parts.iter().any(|part| part.samples == 0 || part.tokens == 0);
    if about.parts.is_empty() || empty || tokens.is_none() {
        return Err(BadStatistics::Parts);
    }
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let mut tensors: BTreeSet<String> = BTreeSet::new();
    for (name, Described { columns, weights }) in &about.inputs {
        let refuse = |why: String| BadStatistics::Input { input: name.clone(), why };
        if weights.first() != Some(name) {
            return Err(refuse("it does not have the name of its first weight".to_owned()));
        }
        if let Some(twice) = weights.iter().find(|weight| !known.insert(weight)) {
            return Err(refuse(format!("`{twice}` takes it twice, or another one too")));
        }
        let layout = layout(*columns).filter(|_| *columns > 0);
        let layout = layout.ok_or_else(|| refuse(format!("it has {columns} columns")))?;
        for (own, need) in layout {
            let tensor = format!("{name}.{own}");
            check_tensor(&tensor, file.tensor(&tensor), need)?;
            tensors.insert(tensor);
        }
    }
    let unknown = file.tensors().find(|tensor| !tensors.contains(tensor.name));
    match unknown {
        Some(tensor) => Err(BadStatistics::Unknown(tensor.name.to_owned())),
        None => Ok(about),
    }
}

fn check_tensor(
    name: &str,
    tensor: Option<Tensor<'_>>,
    need: Vec<usize>,
) -> Result<(), BadStatistics> {
    let have = match tensor {
        Some(tensor) if tensor.dtype == Dtype::U64 && tensor.shape == need => return Ok(()),
        Some(tensor) => format!("is {} {:?}", tensor.dtype, tensor.shape),
        None => "is not there".to_owned(),
    };
    Err(BadStatistics::Tensor { name: name.to_owned(), need, have })
}

/// Writes a file of statistics, one input at a time. The file appears whole or not at all.
pub(super) struct StatisticsWriter(ModelWriter);

impl StatisticsWriter {
    /// Lays the file out.
    pub fn create(
        path: &Path,
        model: u64,
        parts: Vec<TextPart>,
        inputs: BTreeMap<String, Described>,
    ) -> Result<Self, IoError> {
        let mut entries = BTreeMap::new();
        for (name, input) in &inputs {
            let layout = layout(input.columns).ok_or_else(|| IoError::Overflow {
                name: name.clone(),
                shape: vec![input.columns; 2],
            })?;
            for (own, shape) in layout {
                entries.insert(format!("{name}.{own}"), Entry::Plain { dtype: Dtype::U64, shape });
            }
        }
        let about = Description { version: VERSION, model, parts, inputs };
        let text = serde_json::to_string(&about).map_err(|error| IoError::Io {
            doing: "write",
            path: path.to_owned(),
            source: error.into(),
        })?;
        let metadata = BTreeMap::from([(KEY.to_owned(), text)]);
        Ok(Self(ModelWriter::create(path, entries, &metadata)?))
    }

    /// Writes the statistics of an input.
    pub fn write(&mut self, name: &str, seen: &InputStatistics) -> Result<(), IoError> {
        let bytes =
            |sums: &[i128]| -> Vec<u8> { sums.iter().flat_map(|sum| sum.to_le_bytes()).collect() };
        let (gram, abs) = (bytes(seen.gram.sums()), bytes(&seen.abs));
        let checksum = checksum(seen.gram.rows(), &gram, &abs).to_le_bytes();
        for (own, bytes) in [("gram", &gram[..]), ("abs", &abs), ("checksum", &checksum)] {
            self.0.write_plain(&format!("{name}.{own}"), bytes)?;
        }
        Ok(())
    }

    /// Makes the file appear.
    pub fn finish(self) -> Result<(), IoError> {
        self.0.finish()
    }
}
