//! An order as this service knows it: what is stored, and what only passes through.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::saga::{Saga, Stage};

/// An amount in its currency's smallest unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// 1999 is 19.99 EUR.
    pub minor_units: i64,
    /// ISO 4217.
    pub currency: String,
}

/// A line of the cart, as it was when the order was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product service's id.
    pub product_id: String,
    /// The product's name at that time.
    pub name: String,
    /// At least 1.
    pub quantity: u32,
    /// What one cost.
    pub unit_price: Money,
    /// What all of them cost.
    pub line_total: Money,
}

/// Where the parcel goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Who receives it.
    pub name: String,
    /// Street and number.
    pub street: String,
    /// City.
    pub city: String,
    /// Postal code.
    pub postal_code: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
}

/// What is ordered. Stored as JSON; it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Chosen at random by this service.
    pub order_id: String,
    /// The token's subject.
    pub user_id: String,
    /// What the cart held.
    pub lines: Vec<Line>,
    /// What the cart said it costs, which is what the customer saw and what is charged.
    pub total: Money,
    /// Where the parcel goes.
    pub address: Address,
    /// Of the card's number.
    pub card_last_four: String,
    /// The cart that is cleared when the order is confirmed.
    pub cart_version: u64,
}

/// An order and how far it has come.
#[derive(Clone, Debug)]
pub struct Record {
    /// What is ordered.
    pub order: Order,
    /// Folded from its journal.
    pub saga: Saga,
    /// Milliseconds since the Unix epoch.
    pub placed_at: i64,
    /// When the last entry was written.
    pub updated_at: i64,
    /// When it was first confirmed.
    pub confirmed_at: Option<i64>,
    /// Whether its cart is cleared, or spared because it has changed since.
    pub cart_cleared: bool,
}

/// A state of an order as its customer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Position in the journal.
    pub sequence: u64,
    /// How far the order had come.
    pub stage: Stage,
    /// What had happened.
    pub note: String,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
}

/// A card on its way through. Never stored, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Card {
    /// The number as it was given.
    pub number: String,
    /// MM/YY.
    pub expiry: String,
    /// The security code.
    pub cvc: String,
}

impl Card {
    /// What may be stored: the last four digits, or fewer where there are fewer.
    #[must_use]
    pub fn last_four(&self) -> String {
        let digits: Vec<char> = self.number.chars().filter(char::is_ascii_digit).collect();
        digits[digits.len().saturating_sub(4)..].iter().collect()
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Card(…{})", self.last_four())
    }
}

impl Order {
    /// What the product service calls this order's goods. Derived from the order's id, so that a repeated step means the
    /// same thing; the same holds for the next two.
    #[must_use]
    pub fn reservation_id(&self) -> String {
        format!("stock-{}", self.order_id)
    }

    /// What the payment service calls this order's payment.
    #[must_use]
    pub fn payment_id(&self) -> String {
        format!("payment-{}", self.order_id)
    }

    /// What the shipping service calls this order's parcel.
    #[must_use]
    pub fn shipment_id(&self) -> String {
        format!("parcel-{}", self.order_id)
    }
}
