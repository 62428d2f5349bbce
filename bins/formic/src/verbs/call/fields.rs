//! Fields of a request that its message does not have. A service may pass over what it does not know, and
//! then a slip of the pen is an answer to another question; so they are found before the call, by the schema
//! that the service shows.

use std::time::Duration;

use bytes::Bytes;
use formic_core::Method;
use formic_rpc::Channel;
use formic_settings::nearest;
use serde_json::Value;
use tokio::time::Instant;

use crate::exit::{Failure, Outcome};
use crate::reflect::{self, Schema};

/// The schema is worth a short wait, and no more than half of the time that there is. Without it the call is made as it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Finds the first field of the requests that is not there.
pub(super) async fn check(
    channel: &Channel,
    method: &Method,
    requests: &[Bytes],
    deadline: Instant,
) -> Outcome {
    let values: Vec<Value> =
        requests.iter().filter_map(|request| serde_json::from_slice(request).ok()).collect();
    let has_fields = |value: &Value| value.as_object().is_some_and(|fields| !fields.is_empty());
    if !values.iter().any(has_fields) {
        return Ok(());
    }
    let services = [method.service().to_owned()];
    let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()) / 2);
    let asked = tokio::time::timeout(patience, reflect::schema(channel, &services)).await;
    let Ok(Ok(schema)) = asked else { return Ok(()) };
    let methods = schema.services.iter().flat_map(|service| &service.methods);
    let Some(input) =
        methods.clone().find(|known| known.name == method.name()).map(|known| known.input.as_str())
    else {
        return Ok(());
    };
    for value in &values {
        if let Some(unknown) = first_unknown(&schema, input, value, "") {
            return Err(unknown);
        }
    }
    Ok(())
}

/// The first unknown field of a value of this message, with its place.
fn first_unknown(schema: &Schema, message: &str, value: &Value, place: &str) -> Option<Failure> {
    // Those of Google have forms of their own in JSON.
    let known = schema.messages.get(message).filter(|_| !message.starts_with("google.protobuf."))?;
    for (name, value) in value.as_object()? {
        let Some(field) = known.iter().find(|field| field.name == *name || field.json == *name) else {
            let failure = Failure::user(format!("{message} has no field {:?}", format!("{place}{name}")));
            let names = known.iter().map(|field| field.json.as_str());
            return Some(match nearest(name, names.clone()) {
                Some(near) => failure.help(format!("did you mean {:?}?", format!("{place}{near}"))),
                None if known.is_empty() => failure.help("it has no fields"),
                None => failure.help(format!("it has {}", names.collect::<Vec<_>>().join(", "))),
            });
        };
        let kind = field.kind.strip_prefix("repeated ").unwrap_or(&field.kind);
        let entry = kind.strip_prefix("map<").and_then(|kind| kind.strip_suffix('>'));
        let kind = entry.and_then(|entry| entry.split_once(", ")).map_or(kind, |(_, value)| value);
        let place = format!("{place}{name}.");
        let inner: Vec<&Value> = match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(entries) if entry.is_some() => entries.values().collect(),
            other => vec![other],
        };
        if let Some(unknown) = inner.into_iter().find_map(|item| first_unknown(schema, kind, item, &place)) {
            return Some(unknown);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use formic_core::{Error, Kind};
    use formic_rpc::{Answer, BoxFuture, Call, Handle};
    use serde_json::json;

    use super::*;
    use crate::reflect::Field;

    fn schema() -> Schema {
        let field = |name: &str, json: &str, kind: &str| Field {
            number: 1,
            name: name.into(),
            json: json.into(),
            kind: kind.into(),
        };
        let mut schema = Schema::default();
        schema.messages.insert(
            "shop.Order".into(),
            vec![
                field("order_id", "orderId", "string"),
                field("lines", "lines", "repeated shop.Line"),
                field("by_name", "byName", "map<string, shop.Line>"),
                field("when", "when", "google.protobuf.Timestamp"),
                field("notes", "notes", "map<string, string>"),
            ],
        );
        schema.messages.insert("shop.Line".into(), vec![field("count", "count", "int32")]);
        schema
            .messages
            .insert("google.protobuf.Timestamp".into(), vec![field("seconds", "seconds", "int64")]);
        schema
    }

    fn unknown(value: &Value) -> Option<String> {
        first_unknown(&schema(), "shop.Order", value, "").map(|failure| failure.to_string())
    }

    /// Says nothing, whatever it is asked.
    struct Silent;

    impl Handle for Silent {
        fn method(&self, path: &str) -> Option<Method> {
            Some(Method::dynamic(path.to_owned(), Kind::BidiStream))
        }

        fn call(&self, _: Call) -> BoxFuture<'static, Result<Answer, Error>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_schema_that_does_not_come_leaves_the_call_its_time() {
        let channel = Channel::new(Arc::new(Silent));
        let method = Method::new("/shop.Orders/Place", Kind::Unary);
        let (began, left) = (Instant::now(), Duration::from_millis(100));
        let checked = check(&channel, &method, &[Bytes::from_static(b"{\"a\":1}")], began + left).await;
        let took = began.elapsed();
        assert!(checked.is_ok());
        assert!(took >= left / 2 - Duration::from_millis(5) && took < PATIENCE * 4 / 5, "{took:?}");
    }

    #[test]
    fn both_names_of_a_field_are_known_and_free_keys_are_free() {
        for fine in [
            json!({}),
            json!({ "orderId": "x", "order_id": "y" }),
            json!({ "lines": [{ "count": 1 }], "byName": { "any": { "count": 2 } } }),
            json!({ "when": "2026-11-21T00:00:00Z", "notes": { "free": "text" } }),
            // Of the wrong type: the service says so.
            json!({ "lines": 3 }),
        ] {
            assert_eq!(unknown(&fine), None, "{fine}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place_and_the_nearest() {
        for (value, field, near) in [
            (json!({ "orderid": "x" }), "\"orderid\"", "did you mean \"orderId\"?"),
            (json!({ "lines": [{}, { "cuont": 1 }] }), "\"lines.cuont\"", "did you mean \"lines.count\"?"),
            (json!({ "byName": { "a": { "x": 1 } } }), "\"byName.x\"", "it has count"),
        ] {
            let said = unknown(&value).unwrap_or_default();
            assert!(said.contains(field) && said.contains(near), "{said}");
        }
    }
}
