//! What a request may hold. Every fault of a request is reported at once, each under its field's name.

use formic::Error;

use crate::proto::{self, RegisterRequest, UpdateProfileRequest};
use crate::store::{Address, Changes};

/// RFC 5321: a path has at most 256 bytes, brackets included.
const MAX_EMAIL: usize = 254;

/// Shorter ones are guessed; longer ones only make the hash's input expensive to carry.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=256;

const MAX_NAME: usize = 100;
const MAX_ADDRESS_PART: usize = 200;

/// The violations of one request, gathered.
#[derive(Debug, Default)]
struct Violations(Vec<(String, String)>);

// === impl Violations ===

impl Violations {
    fn check(&mut self, holds: bool, field: &str, description: impl Into<String>) {
        if !holds {
            self.0.push((field.to_owned(), description.into()));
        }
    }

    fn line(&mut self, field: &str, text: &str, most: usize) {
        let fits = !text.is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control);
        self.check(fits, field, format!("must be one line of 1 to {most} characters"));
    }

    /// Nothing, or an `invalid_argument` that names the fields.
    fn finish(self) -> Result<(), Error> {
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

/// A registration that may be tried: the email as it is stored, and the name.
pub(crate) fn registration(req: &RegisterRequest) -> Result<(String, String), Error> {
    let email = normal_email(&req.email);
    let name = req.name.trim();
    let mut violations = Violations::default();
    violations.check(
        is_email(&email),
        "email",
        format!("must be an address such as ann@example.com, of at most {MAX_EMAIL} bytes"),
    );
    violations.check(
        PASSWORD.contains(&req.password.len()),
        "password",
        format!("must have {} to {} bytes", PASSWORD.start(), PASSWORD.end()),
    );
    violations.line("name", name, MAX_NAME);
    let name = name.to_owned();
    violations.finish()?;
    Ok((email, name))
}

/// Credentials that may be tried: the email as it is stored. Only what could not belong to any account and would cost
/// something to look up is refused here; the rest is simply wrong.
pub(crate) fn log_in(email: &str, password: &str) -> Result<String, Error> {
    let mut violations = Violations::default();
    violations.check(email.len() <= MAX_EMAIL, "email", format!("must have at most {MAX_EMAIL} bytes"));
    violations.check(
        password.len() <= *PASSWORD.end(),
        "password",
        format!("must have at most {} bytes", PASSWORD.end()),
    );
    violations.finish()?;
    Ok(normal_email(email))
}

pub(crate) fn changes(req: UpdateProfileRequest) -> Result<Changes, Error> {
    let mut violations = Violations::default();
    let name = req.name.map(|name| name.trim().to_owned());
    if let Some(name) = &name {
        violations.line("name", name, MAX_NAME);
    }
    let address = req.address.into_option().map(|address| self::address(&mut violations, address));
    violations.finish()?;
    Ok(Changes { name, address })
}

/// Nothing for an address without content: it takes the stored one away.
fn address(violations: &mut Violations, address: proto::Address) -> Option<Address> {
    let trimmed = |part: String| part.trim().to_owned();
    let address = Address {
        street: trimmed(address.street),
        city: trimmed(address.city),
        postal_code: trimmed(address.postal_code),
        country: trimmed(address.country).to_ascii_uppercase(),
    };
    if [&address.street, &address.city, &address.postal_code, &address.country]
        .iter()
        .all(|part| part.is_empty())
    {
        return None;
    }
    violations.line("address.street", &address.street, MAX_ADDRESS_PART);
    violations.line("address.city", &address.city, MAX_ADDRESS_PART);
    violations.line("address.postal_code", &address.postal_code, 20);
    let country = &address.country;
    violations.check(
        country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()),
        "address.country",
        "must be two letters, such as DE",
    );
    Some(address)
}

fn normal_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Not whether it exists, which only a letter to it can tell, but whether it looks like one.
fn is_email(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else { return false };
    email.len() <= MAX_EMAIL
        && !local.is_empty()
        && !domain.is_empty()
        && !domain.starts_with('.')
        && !domain.ends_with('.')
        && !email.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use formic::prelude::*;

    use super::*;

    fn fields(error: &Error) -> Vec<String> {
        error.fields().into_iter().map(|violation| violation.field).collect()
    }

    fn registering(email: &str, password: &str, name: &str) -> Result<(String, String), Error> {
        let request = RegisterRequest {
            email: email.into(),
            password: password.into(),
            name: name.into(),
            ..Default::default()
        };
        registration(&request)
    }

    #[test]
    fn an_email_is_one_whatever_its_case() {
        let (email, name) = registering(" Ann@Example.COM ", "correct horse", " Ann ").unwrap();
        assert_eq!((email.as_str(), name.as_str()), ("ann@example.com", "Ann"));
        assert_eq!(log_in("ANN@example.com", "x").unwrap(), email);
    }

    #[test]
    fn every_violation_has_its_field() {
        let error = registering("ann", "short", "two\nlines").unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(fields(&error), ["email", "password", "name"]);
        for email in ["", "@", "a@", "@b", "a b@c", "a@.", &format!("{}@b.de", "a".repeat(250))] {
            assert_eq!(
                fields(&registering(email, "correct horse", "Ann").unwrap_err()),
                ["email"],
                "{email}"
            );
        }
        assert!(registering("a@b", &"x".repeat(256), "Ann").is_ok());
        assert!(registering("a@b", &"x".repeat(257), "Ann").is_err());
        assert!(log_in("a@b", &"x".repeat(257)).is_err());
    }

    #[test]
    fn an_address_is_whole_or_gone() {
        let update = |address: proto::Address| {
            changes(UpdateProfileRequest { address: MessageField::some(address), ..Default::default() })
        };
        let half = proto::Address { city: "Wien".into(), country: "Austria".into(), ..Default::default() };
        assert_eq!(
            fields(&update(half).unwrap_err()),
            ["address.street", "address.postal_code", "address.country"]
        );
        assert_eq!(update(proto::Address::default()).unwrap().address, Some(None));
        assert_eq!(changes(UpdateProfileRequest::default()).unwrap().address, None);
    }
}
