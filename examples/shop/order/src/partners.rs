//! The services that an order touches: each step and each undo as a call, and each answer as what it means to the saga.

use formic::prelude::*;

use crate::config::Config;
use crate::model::{Card, Order};
use crate::proto::shop::{payment::v1 as payment, product::v1 as product, shipping::v1 as shipping};
use crate::saga::{Refusal, Step, Undo};
use crate::{Channels, wire};

/// Typed ways to the other services.
#[derive(Clone, Debug)]
pub(crate) struct Partners {
    product: product::ProductServiceClient,
    payment: payment::PaymentServiceClient,
    shipping: shipping::ShippingServiceClient,
    config: Config,
}

/// Why a step or an undo is not known to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// It may have been done, or not: try again.
    Unclear(String),
    /// The service would not.
    Refused(Refusal),
}

impl Partners {
    pub(crate) fn new(channels: Channels, config: Config) -> Self {
        Self {
            product: product::ProductServiceClient::new(channels.product),
            payment: payment::PaymentServiceClient::new(channels.payment),
            shipping: shipping::ShippingServiceClient::new(channels.shipping),
            config,
        }
    }

    /// Tries a step once.
    pub(crate) async fn perform(
        &self,
        order: &Order,
        step: Step,
        card: Option<&Card>,
    ) -> Result<(), Trouble> {
        let timeout = self.config.step_timeout();
        let answer = match step {
            Step::Reserve => self.product.reserve(wire::reserve(order)).timeout(timeout).await.map(drop),
            Step::Authorize => {
                let card = card.ok_or_else(|| Trouble::Unclear("the card is not at hand".into()))?;
                self.payment.authorize(wire::authorize(order, card)).timeout(timeout).await.map(drop)
            }
            Step::Capture => {
                let request =
                    payment::CaptureRequest { payment_id: order.payment_id(), ..Default::default() };
                self.payment.capture(request).timeout(timeout).await.map(drop)
            }
            Step::Book => self.shipping.book(wire::book(order)).timeout(timeout).await.map(drop),
            Step::Commit => {
                let request =
                    product::CommitRequest { reservation_id: order.reservation_id(), ..Default::default() };
                self.product.commit(request).timeout(timeout).await.map(drop)
            }
        };
        answer.map_err(|error| trouble(&error))
    }

    /// Tries an undo once. Only a parcel that is on its way is a refusal; all else is tried again, since giving up would
    /// leave an order half done.
    pub(crate) async fn compensate(&self, order: &Order, undo: Undo) -> Result<(), Trouble> {
        let answer = match undo {
            Undo::CancelShipment => {
                let request =
                    shipping::CancelRequest { shipment_id: order.shipment_id(), ..Default::default() };
                self.shipping.cancel(request).timeout(self.config.step_timeout()).await.map(drop)
            }
            Undo::ReturnPayment => self.return_payment(order).await,
            Undo::ReleaseStock => {
                let request =
                    product::ReleaseRequest { reservation_id: order.reservation_id(), ..Default::default() };
                self.product.release(request).timeout(self.config.step_timeout()).await.map(drop)
            }
        };
        answer.map_err(|error| match (undo, trouble(&error)) {
            (Undo::CancelShipment, Trouble::Refused(refusal)) if has_reason(&error, "SHIPMENT_UNDER_WAY") => {
                Trouble::Refused(refusal)
            }
            _ => Trouble::Unclear(error.to_string()),
        })
    }

    /// Voids the payment, or refunds it where the void says that it was captured: whether a capture whose answer was lost
    /// took place is for the payment service to say. A void that succeeds refuses any capture that is still on its way.
    async fn return_payment(&self, order: &Order) -> Result<(), Error> {
        let timeout = self.config.step_timeout();
        let request = payment::VoidRequest { payment_id: order.payment_id(), ..Default::default() };
        match self.payment.void(request).timeout(timeout).await {
            Err(error) if has_reason(&error, "PAYMENT_REFUNDED") => Ok(()),
            Err(error) if has_reason(&error, "PAYMENT_CAPTURED") => {
                let request = payment::RefundRequest { payment_id: order.payment_id(), ..Default::default() };
                self.payment.refund(request).timeout(timeout).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    /// The caller's cart.
    pub(crate) async fn view_cart(&self, token: &str) -> Result<product::Cart, Error> {
        let call = self.product.view_cart(product::ViewCartRequest::default());
        let answer = call.metadata("authorization", &format!("Bearer {token}")).await?.into_message();
        Ok(answer.cart.as_option().cloned().unwrap_or_default())
    }

    /// Clears the caller's cart, unless it has changed since it had this version.
    pub(crate) async fn clear_cart(&self, token: &str, version: u64) -> Result<(), Error> {
        let call =
            self.product.clear_cart(product::ClearCartRequest { if_version: version, ..Default::default() });
        let call =
            call.metadata("authorization", &format!("Bearer {token}")).timeout(self.config.step_timeout());
        call.await.map(drop)
    }

    /// The order's parcel.
    pub(crate) async fn track(&self, order: &Order) -> Result<shipping::Shipment, Error> {
        let request = shipping::TrackRequest { shipment_id: order.shipment_id(), ..Default::default() };
        let answer = self.shipping.track(request).await?.into_message();
        Ok(answer.shipment.as_option().cloned().unwrap_or_default())
    }
}

fn has_reason(error: &Error, reason: &str) -> bool {
    error.info().is_some_and(|info| info.reason == reason)
}

/// What an error means. Only codes that say "your request, as it stands, will never do" are refusals; everything that may
/// be about the way, the moment or a bug leaves open what happened, and another try may do.
fn trouble(error: &Error) -> Trouble {
    let refuses = matches!(
        error.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    );
    if !refuses || error.is_retryable() {
        return Trouble::Unclear(error.to_string());
    }
    let info = error.info();
    Trouble::Refused(Refusal {
        // Details come from the service's own rules; without them it may have been anybody on the way.
        certain: info.is_some() || !error.fields().is_empty(),
        message: error.message().to_owned(),
        reason: info.as_ref().map_or_else(|| "REFUSED".to_owned(), |info| info.reason.clone()),
        metadata: info.map(|info| info.metadata).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_service_itself_says_is_certain() {
        let declined = Error::failed_precondition("declined").with_info(
            "shop.payment",
            "CARD_DECLINED",
            [("decline_code", "x")],
        );
        let Trouble::Refused(refusal) = trouble(&declined) else { panic!("a decline is a refusal") };
        assert!(refusal.certain);
        assert_eq!((refusal.reason.as_str(), refusal.metadata.len()), ("CARD_DECLINED", 1));

        let Trouble::Refused(refusal) = trouble(&Error::unimplemented("no method")) else {
            panic!("no use to repeat")
        };
        assert!(!refusal.certain);
        assert_eq!(refusal.reason, "REFUSED");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for code in Code::ALL {
            let retried = matches!(trouble(&Error::new(code, "x")), Trouble::Unclear(_));
            let passes = code.is_server_fault()
                || matches!(code, Code::Canceled | Code::Aborted | Code::ResourceExhausted);
            assert_eq!(retried, passes, "{code}");
        }
        assert!(matches!(trouble(&Error::not_found("no instance").with_unsent()), Trouble::Unclear(_)));
    }
}
