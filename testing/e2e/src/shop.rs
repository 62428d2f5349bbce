//! The shop from a customer's side, and its books from the inside.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Answer, Gateway};

static CUSTOMERS: AtomicU32 = AtomicU32::new(0);

/// Somebody with an account, logged in.
#[derive(Debug, Clone)]
pub struct Customer {
    gateway: Gateway,
    /// The token.
    pub token: String,
}

impl Customer {
    /// Opens an account and logs in.
    ///
    /// # Panics
    /// If the shop refuses.
    #[must_use]
    pub fn new(gateway: &Gateway) -> Self {
        let number = CUSTOMERS.fetch_add(1, Ordering::Relaxed);
        let email = format!("customer-{}-{number}@example.org", std::process::id());
        let login = json!({ "email": email, "password": "correct horse battery" });
        let mut account = login.clone();
        account["name"] = "Ada".into();
        let _ = gateway.call("shop.user.v1.UserService/Register", &account, None);
        let answer = gateway.call("shop.user.v1.UserService/LogIn", &login, None);
        let token = answer["token"].as_str().expect("logging in gives a token").to_owned();
        Self { gateway: gateway.clone(), token }
    }

    /// A call in this customer's name.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn call(&self, method: &str, request: &Value) -> Value {
        self.gateway.call(method, request, Some(&self.token))
    }

    /// Puts goods into the cart.
    pub fn add(&self, product: &str, quantity: u32) {
        let request = json!({ "productId": product, "quantity": quantity });
        let _ = self.call("shop.product.v1.ProductService/AddToCart", &request);
    }

    /// Orders what is in the cart; whatever comes back comes back.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn place(&self, order: &Order) -> std::io::Result<Answer> {
        self.gateway.patient_call("shop.order.v1.OrderService/Place", &order.request(), Some(&self.token))
    }

    /// This customer's orders, newest first; none while the shop does not answer.
    #[must_use]
    pub fn orders(&self) -> Vec<Value> {
        let answer = self.gateway.try_call("shop.order.v1.OrderService/List", &json!({}), Some(&self.token));
        let body = answer.ok().filter(|answer| answer.status == 200).map(|answer| answer.json());
        body.and_then(|body| body["orders"].as_array().cloned()).unwrap_or_default()
    }

    /// Calls an order off; whatever comes back comes back.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn cancel(&self, order_id: &str) -> std::io::Result<Answer> {
        let request = json!({ "orderId": order_id });
        self.gateway.patient_call("shop.order.v1.OrderService/Cancel", &request, Some(&self.token))
    }

    /// The states of an order from its first on, until it is final, each with its time in milliseconds since 1970.
    ///
    /// # Panics
    /// If the stream ends otherwise.
    #[must_use]
    pub fn story(&self, order_id: &str) -> Vec<(String, i64)> {
        let request = json!({ "orderId": order_id, "fromStart": true }).to_string();
        let length = u32::try_from(request.len()).expect("short").to_be_bytes();
        let body = [&[0][..], &length, request.as_bytes()].concat();
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Content-Type", "application/connect+json"), ("Authorization", bearer.as_str())];
        let answer = self.gateway.send("POST", "/shop.order.v1.OrderService/Watch", &headers, &body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (end, messages): (Vec<_>, Vec<_>) =
            answer.envelopes().into_iter().partition(|(flags, _)| flags & 2 != 0);
        assert_eq!(end.len(), 1, "one envelope ends the stream");
        assert!(end[0].1.get("error").is_none(), "{:?}", end[0]);
        let entry = |message: &Value| {
            (state(message, "ORDER_STATE_"), message["atUnixMs"].as_str().unwrap().parse().unwrap())
        };
        messages.iter().map(|(_, message)| entry(message)).collect()
    }
}

/// The value of `state` without the prefix of its enum.
fn state(message: &Value, prefix: &str) -> String {
    message["state"].as_str().unwrap_or("UNSPECIFIED").replacen(prefix, "", 1)
}

/// What is asked of `Place`.
#[derive(Debug, Clone)]
pub struct Order {
    /// The idempotency key.
    pub key: String,
    /// The card's number.
    pub card: &'static str,
    /// Where to.
    pub postal_code: &'static str,
}

impl Order {
    /// One that nothing speaks against.
    #[must_use]
    pub fn good(key: &str) -> Self {
        Self { key: key.to_owned(), card: "4242424242424242", postal_code: "10115" }
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> Value {
        json!({
            "idempotencyKey": self.key,
            "card": { "number": self.card, "expiry": "12/34", "cvc": "123" },
            "address": {
                "name": "Ada", "street": "Weg 1", "city": "Ort", "postalCode": self.postal_code, "country": "DE",
            },
        })
    }
}

/// The names under which an order's parts are known to the other services.
#[derive(Debug, Clone)]
pub struct Ids {
    /// At product.
    pub reservation: String,
    /// At payment.
    pub payment: String,
    /// At shipping.
    pub shipment: String,
}

/// The parts of an order: order names them all after itself.
#[must_use]
pub fn ids(order_id: &str) -> Ids {
    Ids {
        reservation: format!("stock-{order_id}"),
        payment: format!("payment-{order_id}"),
        shipment: format!("parcel-{order_id}"),
    }
}

/// The shop's books, asked of the services themselves and not through the gateway, which hides two of them.
#[derive(Debug)]
pub struct Books {
    product: Gateway,
    payment: Gateway,
    shipping: Gateway,
}

impl App {
    /// The books, as long as no service is restarted.
    #[must_use]
    pub fn books(&self) -> Books {
        let at = |name: &str| Gateway { authority: self.address_of(name) };
        Books { product: at("product"), payment: at("payment"), shipping: at("shipping") }
    }
}

impl Books {
    /// What can still be bought of a product.
    ///
    /// # Panics
    /// If the product service does not say.
    #[must_use]
    pub fn available(&self, product: &str) -> i64 {
        let answer = self.product.call("shop.product.v1.ProductService/Get", &json!({ "id": product }), None);
        // 64-bit numbers are strings in the JSON of protobuf, and a zero is left out.
        answer["product"]["available"].as_str().map_or(0, |number| number.parse().unwrap())
    }

    /// The states of an order's stock, payment and parcel; `none` for what was never made.
    ///
    /// # Panics
    /// If one of the services does not say.
    #[must_use]
    pub fn parts(&self, order_id: &str) -> [String; 3] {
        let ids = ids(order_id);
        let ask = |service: &Gateway, method: &str, request: &Value, part: &str, prefix: &str| {
            let answer = service.try_call(method, request, None).unwrap();
            match answer.status {
                200 => state(&answer.json()[part], prefix),
                404 => "none".to_owned(),
                _ => panic!("{method} {request}: {}", answer.text()),
            }
        };
        [
            ask(
                &self.product,
                "shop.product.v1.ProductService/GetReservation",
                &json!({ "reservationId": ids.reservation }),
                "reservation",
                "RESERVATION_STATE_",
            ),
            ask(
                &self.payment,
                "shop.payment.v1.PaymentService/Get",
                &json!({ "paymentId": ids.payment }),
                "payment",
                "PAYMENT_STATE_",
            ),
            ask(
                &self.shipping,
                "shop.shipping.v1.ShippingService/Track",
                &json!({ "shipmentId": ids.shipment }),
                "shipment",
                "SHIPMENT_STATE_",
            ),
        ]
    }
}
