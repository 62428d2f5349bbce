//! The catalogue's file: what the shop sells before anything has been sold.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The catalogue that the service brings along, so that it starts without any file around it.
const BUILT_IN: &str = include_str!("../catalogue.json");

/// With this bound no total of a full cart or reservation comes near overflow.
const MAX_PRICE: i64 = 100_000_000;

/// All products, priced in one currency: a cart never has to add euros to dollars.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Three letters, ISO 4217.
    pub currency: String,
    /// The products.
    pub products: Vec<CatalogueProduct>,
}

/// A product as the catalogue's file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueProduct {
    /// Unique; part of URLs.
    pub id: String,
    /// Shown in lists.
    pub name: String,
    /// One category.
    pub category: String,
    /// A sentence or two.
    pub description: String,
    /// Words to be found by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// In the currency's smallest unit.
    pub price: i64,
    /// How many there are.
    pub stock: i64,
}

/// Why a catalogue is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not the JSON of a catalogue.
    #[error("parse {name}")]
    Parse {
        /// Which file.
        name: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Everything that is wrong with the content.
    #[error("accept {name}: {}", faults.join("; "))]
    Faulty {
        /// Which file.
        name: String,
        /// One line each.
        faults: Vec<String>,
    },
}

// === impl Catalogue ===

impl Catalogue {
    /// The catalogue that the service brings along.
    ///
    /// # Errors
    /// None in a build that passed its tests.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Self::parse("the built-in catalogue", BUILT_IN)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not a catalogue.
    pub fn read(path: &Path) -> Result<Self, CatalogueError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CatalogueError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, CatalogueError> {
        let catalogue: Self = serde_json::from_str(text)
            .map_err(|source| CatalogueError::Parse { name: name.to_owned(), source })?;
        let faults = catalogue.faults();
        if faults.is_empty() {
            Ok(catalogue)
        } else {
            Err(CatalogueError::Faulty { name: name.to_owned(), faults })
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.currency.len() != 3 || !self.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            faults.push(format!("the currency {:?} is not three capital letters", self.currency));
        }
        if self.products.is_empty() {
            faults.push("there is no product".to_owned());
        }
        let mut seen = HashSet::new();
        for product in &self.products {
            let id = &product.id;
            if id.is_empty() || id.len() > 128 || id.chars().any(char::is_whitespace) {
                faults.push(format!("the id {id:?} is empty, longer than 128 bytes, or has a space"));
            }
            if !seen.insert(id) {
                faults.push(format!("the id {id:?} occurs twice"));
            }
            if product.name.trim().is_empty() || product.category.trim().is_empty() {
                faults.push(format!("{id:?} has no name or no category"));
            }
            if !(1..=MAX_PRICE).contains(&product.price) {
                faults.push(format!(
                    "{id:?} has the price {}, which is not within 1 to {MAX_PRICE}",
                    product.price
                ));
            }
            if product.stock < 0 {
                faults.push(format!("{id:?} has the stock {}, which is negative", product.stock));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_built_in_catalogue_is_large_and_has_lamps() {
        let catalogue = Catalogue::built_in().unwrap();
        assert!(catalogue.products.len() >= 200);
        let categories: HashSet<_> = catalogue.products.iter().map(|product| &product.category).collect();
        assert!(categories.len() >= 5);
        assert!(
            catalogue.products.iter().filter(|product| product.tags.iter().any(|tag| tag == "lamp")).count()
                >= 5
        );
    }

    #[test]
    fn every_fault_is_reported() {
        let text = r#"{ "currency": "eur", "products": [
            { "id": "a", "name": "A", "category": "c", "description": "", "price": 0, "stock": 1 },
            { "id": "a", "name": " ", "category": "c", "description": "", "price": 1, "stock": -1 } ] }"#;
        let error = Catalogue::parse("x.json", text).unwrap_err();
        let CatalogueError::Faulty { faults, .. } = error else { panic!("{error}") };
        assert_eq!(faults.len(), 5, "{faults:#?}");
    }

    #[test]
    fn an_unknown_key_and_a_missing_file_name_themselves() {
        let error = Catalogue::parse("x.json", r#"{"currency":"EUR","products":[],"colour":1}"#).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("colour"));
        let error = Catalogue::read(Path::new("/nowhere/catalogue.json")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/catalogue.json"));
    }
}
