//! The methods of `shop.product.v1.ProductService`: check the request, ask the store, answer.

use formic::prelude::*;

use crate::proto::{self, ProductService, *};
use crate::{Products, input, wire};

impl ProductService for Products {
    async fn search(&self, _ctx: Context, req: Request<'_, SearchRequest>) -> Reply<SearchResponse> {
        input::text(req.text)?;
        let page = input::page(&["search", req.text], req.limit, req.page_token)?;
        let (found, more) = self.store.search(req.text, page).await?;
        reply(SearchResponse {
            products: self.products(found),
            next_page_token: if more { page.next_token() } else { String::new() },
            ..Default::default()
        })
    }

    async fn get(&self, _ctx: Context, req: Request<'_, GetRequest>) -> Reply<GetResponse> {
        let id = input::id("id", req.id)?;
        let product = self.store.product(id).await?.ok_or_else(|| wire::no_product(req.id))?;
        let product = wire::product(product, self.store.currency());
        reply(GetResponse { product: product.into(), ..Default::default() })
    }

    async fn list(&self, _ctx: Context, req: Request<'_, ListRequest>) -> Reply<ListResponse> {
        let page = input::page(&["list", req.category], req.limit, req.page_token)?;
        let (found, more) = self.store.list(req.category.to_owned(), page).await?;
        reply(ListResponse {
            products: self.products(found),
            next_page_token: if more { page.next_token() } else { String::new() },
            ..Default::default()
        })
    }

    async fn categories(
        &self,
        _ctx: Context,
        _req: Request<'_, CategoriesRequest>,
    ) -> Reply<CategoriesResponse> {
        let categories = self.store.categories().await?.into_iter().map(|category| proto::Category {
            name: category.name,
            products: category.products,
            ..Default::default()
        });
        reply(CategoriesResponse { categories: categories.collect(), ..Default::default() })
    }

    async fn reserve(&self, ctx: Context, req: Request<'_, ReserveRequest>) -> Reply<ReserveResponse> {
        from_inside(&ctx)?;
        let req = req.to_owned_message();
        let items = input::reservation(&req.reservation_id, &req.order_id, &req.items)?;
        let reserved =
            self.store.reserve(req.reservation_id, req.order_id, items).await.map_err(wire::stock_error)?;
        reply(ReserveResponse { reservation: self.reservation(reserved).into(), ..Default::default() })
    }

    async fn commit(&self, ctx: Context, req: Request<'_, CommitRequest>) -> Reply<CommitResponse> {
        from_inside(&ctx)?;
        let id = input::id("reservation_id", req.reservation_id)?;
        let committed = self.store.commit(id).await.map_err(wire::stock_error)?;
        reply(CommitResponse { reservation: self.reservation(committed).into(), ..Default::default() })
    }

    async fn release(&self, ctx: Context, req: Request<'_, ReleaseRequest>) -> Reply<ReleaseResponse> {
        from_inside(&ctx)?;
        let id = input::id("reservation_id", req.reservation_id)?;
        let released = self.store.release(id).await.map_err(wire::stock_error)?;
        reply(ReleaseResponse { reservation: self.reservation(released).into(), ..Default::default() })
    }

    async fn get_reservation(
        &self,
        ctx: Context,
        req: Request<'_, GetReservationRequest>,
    ) -> Reply<GetReservationResponse> {
        from_inside(&ctx)?;
        let id = input::id("reservation_id", req.reservation_id)?;
        let found = self.store.reservation(id).await.map_err(wire::stock_error)?;
        reply(GetReservationResponse { reservation: self.reservation(found).into(), ..Default::default() })
    }

    async fn add_to_cart(
        &self,
        ctx: Context,
        req: Request<'_, AddToCartRequest>,
    ) -> Reply<AddToCartResponse> {
        let user = self.verifier.claims(&ctx).await?.sub;
        let product = input::id("product_id", req.product_id)?;
        let quantity = input::cart_quantity(req.quantity)?;
        let cart = self.store.add_to_cart(user, product, quantity).await.map_err(wire::cart_error)?;
        reply(AddToCartResponse { cart: self.cart(cart).into(), ..Default::default() })
    }

    async fn remove_from_cart(
        &self,
        ctx: Context,
        req: Request<'_, RemoveFromCartRequest>,
    ) -> Reply<RemoveFromCartResponse> {
        let user = self.verifier.claims(&ctx).await?.sub;
        let product = input::id("product_id", req.product_id)?;
        let cart = self.store.remove_from_cart(user, product).await?;
        reply(RemoveFromCartResponse { cart: self.cart(cart).into(), ..Default::default() })
    }

    async fn view_cart(&self, ctx: Context, _req: Request<'_, ViewCartRequest>) -> Reply<ViewCartResponse> {
        let user = self.verifier.claims(&ctx).await?.sub;
        let cart = self.store.cart(user).await?;
        reply(ViewCartResponse { cart: self.cart(cart).into(), ..Default::default() })
    }

    async fn clear_cart(&self, ctx: Context, req: Request<'_, ClearCartRequest>) -> Reply<ClearCartResponse> {
        let user = self.verifier.claims(&ctx).await?.sub;
        let if_version = Some(req.if_version).filter(|&version| version != 0);
        let cart = self.store.clear_cart(user, if_version).await?;
        reply(ClearCartResponse { cart: self.cart(cart).into(), ..Default::default() })
    }
}

/// Stock is moved by services, which call each other directly: refuses what came through the gateway, which writes down where
/// each of its calls comes from. Else anybody outside could reserve the shop empty.
fn from_inside(ctx: &Context) -> Result<(), Error> {
    match ctx.metadata().get("x-forwarded-for") {
        None => Ok(()),
        Some(_) => Err(Error::permission_denied("reservations are made by the shop's own services")),
    }
}

// === impl Products: answers ===

impl Products {
    fn products(&self, products: Vec<crate::store::Product>) -> Vec<proto::Product> {
        products.into_iter().map(|product| wire::product(product, self.store.currency())).collect()
    }

    fn reservation(&self, reservation: crate::store::Reservation) -> proto::Reservation {
        wire::reservation(reservation, self.store.currency())
    }

    fn cart(&self, cart: crate::store::Cart) -> proto::Cart {
        wire::cart(cart, self.store.currency())
    }
}
