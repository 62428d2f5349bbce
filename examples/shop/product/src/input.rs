//! What a request may hold. Every fault of a request is reported at once, each under its field's name.

use formic::Error;

use crate::page::{Page, PageFault};
use crate::proto::Item;
use crate::store::{Items, MAX_LINES, MAX_QUANTITY};

/// Ids are chosen by programs; this is longer than any of theirs.
const MAX_ID: usize = 128;

/// Bounds the work of a search.
const MAX_TEXT: usize = 200;

/// The violations of one request, gathered.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<(String, String)>);

// === impl Violations ===

impl Violations {
    pub(crate) fn check(&mut self, holds: bool, field: impl Into<String>, description: impl Into<String>) {
        if !holds {
            self.0.push((field.into(), description.into()));
        }
    }

    pub(crate) fn id(&mut self, field: impl Into<String>, id: &str) {
        self.check(!id.is_empty() && id.len() <= MAX_ID, field, format!("must have 1 to {MAX_ID} bytes"));
    }

    /// Nothing, or an `invalid_argument` that names the fields.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let Some((field, description)) = self.0.first() else { return Ok(()) };
        let more = match self.0.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let error = Error::invalid_argument(format!("{field} {description}{more}"));
        Err(self
            .0
            .into_iter()
            .fold(error, |error, (field, description)| error.with_field(field, description)))
    }
}

/// An id on its own, as most requests have it.
pub(crate) fn id(field: &str, id: &str) -> Result<String, Error> {
    let mut violations = Violations::default();
    violations.id(field, id);
    violations.finish()?;
    Ok(id.to_owned())
}

pub(crate) fn text(text: &str) -> Result<(), Error> {
    let mut violations = Violations::default();
    violations.check(text.len() <= MAX_TEXT, "text", format!("must have at most {MAX_TEXT} bytes"));
    violations.finish()
}

pub(crate) fn page(question: &[&str], limit: u32, token: &str) -> Result<Page, Error> {
    Page::new(question, limit, token).map_err(|fault: PageFault| {
        let mut violations = Violations::default();
        violations.check(false, fault.field(), fault.description());
        violations.finish().expect_err("one violation was put in")
    })
}

pub(crate) fn cart_quantity(quantity: u32) -> Result<u32, Error> {
    let mut violations = Violations::default();
    violations.check(quantity <= MAX_QUANTITY, "quantity", format!("must be at most {MAX_QUANTITY}"));
    violations.finish()?;
    Ok(quantity.max(1))
}

/// The reservation's id, the order's, and the items with a product's lines added up.
pub(crate) fn reservation(id: &str, order: &str, items: &[Item]) -> Result<Items, Error> {
    let mut violations = Violations::default();
    violations.id("reservation_id", id);
    violations.id("order_id", order);
    violations.check(
        (1..=MAX_LINES as usize).contains(&items.len()),
        "items",
        format!("must be 1 to {MAX_LINES} items"),
    );
    let mut wanted = Items::new();
    for (at, item) in items.iter().enumerate() {
        violations.id(format!("items[{at}].product_id"), &item.product_id);
        let sum = wanted.entry(item.product_id.clone()).or_default();
        *sum = sum.saturating_add(item.quantity);
        violations.check(
            item.quantity >= 1 && *sum <= MAX_QUANTITY,
            format!("items[{at}].quantity"),
            format!("must be 1 to {MAX_QUANTITY} of one product"),
        );
    }
    violations.finish()?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn item(product_id: &str, quantity: u32) -> Item {
        Item { product_id: product_id.into(), quantity, ..Default::default() }
    }

    #[test]
    fn lines_of_one_product_are_added_up() {
        let items = reservation("r", "o", &[item("b", 2), item("a", 1), item("b", 3)]).unwrap();
        assert_eq!(items.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 1), ("b".to_owned(), 5)]);
    }

    #[test]
    fn every_violation_has_its_field() {
        let error =
            reservation("", &"o".repeat(129), &[item("a", 0), item("", 60), item("b", 60), item("b", 60)])
                .unwrap_err();
        let fields: Vec<_> = error.fields().into_iter().map(|violation| violation.field).collect();
        assert_eq!(
            fields,
            ["reservation_id", "order_id", "items[0].quantity", "items[1].product_id", "items[3].quantity"]
        );
        assert!(reservation("r", "o", &[]).is_err());
        assert!(reservation("r", "o", &vec![item("a", 1); 51]).is_err());
        assert!(reservation("r", "o", &[item("a", u32::MAX), item("a", u32::MAX)]).is_err());
    }

    #[test]
    fn no_quantity_means_one_and_a_hundred_is_too_many() {
        assert_eq!(cart_quantity(0).unwrap(), 1);
        assert_eq!(cart_quantity(99).unwrap(), 99);
        assert_eq!(cart_quantity(100).unwrap_err().fields()[0].field, "quantity");
    }
}
