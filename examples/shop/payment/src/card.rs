//! A card as it comes in a request: checked for form, and shy about its number.

use std::fmt;

/// A well-formed card. There is no way to print its number, and it is dropped with the request.
#[derive(Clone, PartialEq, Eq)]
pub struct Card {
    number: String,
}

/// What is wrong with the form of a card: the field, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// `card.number`, `card.expiry` or `card.cvc`.
    pub field: &'static str,
    /// What the field must be.
    pub must: &'static str,
}

impl Card {
    /// Checks the form of number, expiry and security code. Whether the number's check digit is right is for the processor
    /// to say, as it is with real ones.
    ///
    /// # Errors
    /// Every field that is malformed.
    pub fn parse(number: &str, expiry: &str, cvc: &str) -> Result<Self, Vec<Malformed>> {
        let digits: String = number.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        let mut faults = Vec::new();
        let mut check = |ok: bool, field, must| {
            if !ok {
                faults.push(Malformed { field, must });
            }
        };
        check(
            (12..=19).contains(&digits.len()) && all_digits(&digits),
            "card.number",
            "must have 12 to 19 digits",
        );
        check(is_month_and_year(expiry), "card.expiry", "must be MM/YY");
        check((3..=4).contains(&cvc.len()) && all_digits(cvc), "card.cvc", "must have 3 or 4 digits");
        if faults.is_empty() { Ok(Self { number: digits }) } else { Err(faults) }
    }

    /// What may be stored and shown.
    #[must_use]
    pub fn last_four(&self) -> &str {
        &self.number[self.number.len() - 4..]
    }

    /// Whether this is the number, given without spaces.
    #[must_use]
    pub fn is(&self, number: &str) -> bool {
        self.number == number
    }

    /// Whether the check digit fits (Luhn's formula).
    #[must_use]
    pub fn passes_luhn(&self) -> bool {
        let sum: u32 = self
            .number
            .bytes()
            .rev()
            .enumerate()
            .map(|(at, digit)| {
                let digit = u32::from(digit - b'0');
                match (at % 2, digit) {
                    (0, _) => digit,
                    (_, 0..5) => digit * 2,
                    _ => digit * 2 - 9,
                }
            })
            .sum();
        sum.is_multiple_of(10)
    }
}

/// The last four digits and nothing else.
impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Card(…{})", self.last_four())
    }
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_month_and_year(text: &str) -> bool {
    text.split_once('/').is_some_and(|(month, year)| {
        month.len() == 2
            && year.len() == 2
            && all_digits(month)
            && all_digits(year)
            && month.parse().is_ok_and(|month: u8| (1..=12).contains(&month))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn spaces_and_dashes_do_not_matter() {
        let plain = Card::parse("4242424242424242", "12/34", "123").unwrap();
        assert_eq!(Card::parse("4242 4242-4242 4242", "01/30", "1234").unwrap(), plain);
        assert!(plain.is("4242424242424242"));
        assert_eq!(plain.last_four(), "4242");
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let faults = Card::parse("4242", "13/34", "12").unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["card.number", "card.expiry", "card.cvc"]);
        for expiry in ["", "1/34", "00/34", "12/3", "12-34", "+1/34", "ab/cd", "12/é"] {
            assert!(Card::parse("4242424242424242", expiry, "123").is_err(), "{expiry}");
        }
        for number in ["", "424242424242424x", "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢", "42424242424242424242"] {
            assert!(Card::parse(number, "12/34", "123").is_err(), "{number}");
        }
    }

    #[test]
    fn one_wrong_digit_is_noticed() {
        let number = "4242424242424242";
        assert!(Card::parse(number, "12/34", "123").unwrap().passes_luhn());
        for at in 0..number.len() {
            for digit in b'0'..=b'9' {
                let mut bytes = number.as_bytes().to_vec();
                if bytes[at] == digit {
                    continue;
                }
                bytes[at] = digit;
                let wrong = String::from_utf8(bytes).unwrap();
                assert!(!Card::parse(&wrong, "12/34", "123").unwrap().passes_luhn(), "{wrong}");
            }
        }
    }

    #[test]
    fn the_number_is_never_shown() {
        let card = Card::parse("4000056655665556", "12/34", "123").unwrap();
        assert_eq!(format!("{card:?}"), "Card(…5556)");
    }
}
