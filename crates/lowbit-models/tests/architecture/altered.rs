//! A model of which a test has changed something.

use lowbit_models::checkpoint::source::{Data, Family, Item, Model, ModelSource, SourceError};
use serde_json::Value;
use std::collections::BTreeMap;

/// A model with another configuration, or another list of items.
#[derive(Debug)]
pub struct Altered<'a> {
    model: &'a Model,
    pub config: Value,
    pub items: Vec<Item>,
}

impl<'a> Altered<'a> {
    pub fn new(model: &'a Model) -> Self {
        Self { model, config: model.config().clone(), items: model.items().unwrap() }
    }

    /// Sets a value of the configuration, or removes it.
    pub fn set(mut self, pointer: &str, value: Option<Value>) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let object = self.config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => drop(object.insert(key.to_owned(), value)),
            None => drop(object.remove(key)),
        }
        self
    }

    /// Returns an item.
    pub fn item(&mut self, name: &str) -> &mut Item {
        self.items.iter_mut().find(|item| item.name == name).unwrap()
    }
}

impl ModelSource for Altered<'_> {
    fn family(&self) -> Family {
        self.model.family()
    }

    fn architecture(&self) -> Option<&str> {
        self.config["architectures"][0].as_str()
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.model.metadata()
    }

    fn files(&self) -> Vec<String> {
        self.model.files()
    }

    fn file_bytes(&self) -> usize {
        self.model.file_bytes()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        Ok(self.items.clone())
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        self.model.read(name)
    }
}
