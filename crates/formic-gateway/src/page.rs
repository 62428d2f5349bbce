//! What a browser or a bare `curl` sees where there is no call: one plain page, in HTML or JSON.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::routes::Routes;

/// The pages of one gateway.
#[derive(Clone)]
pub(crate) struct Page {
    app: String,
    routes: Routes,
}

impl Page {
    pub(crate) fn new(app: String, routes: Routes) -> Self {
        Self { app, routes }
    }

    /// The pages beside the calls.
    pub(crate) fn router(self) -> Router {
        Router::new().fallback(answer).with_state(self)
    }
}

/// What a browser gets that was sent to a method as if it were a page; everything else goes on.
pub(crate) async fn browser(State(page): State<Page>, request: Request, next: Next) -> Response {
    let looks = request.method() == Method::GET && wants_html(request.headers());
    // A call by GET has its message in the query.
    let call = request.uri().query().is_some_and(|query| query.contains("message="));
    if looks && !call && page.routes.now().find(request.uri().path()).is_some() {
        let html = Html(page.html(Why::NotByGet, request.method(), request.uri().path()));
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], html).into_response();
    }
    next.run(request).await
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Why there is a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Home,
    NotFound,
    NotByGet,
}

async fn answer(State(page): State<Page>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let home = uri.path() == "/" && (method == Method::GET || method == Method::HEAD);
    let status = if home { StatusCode::OK } else { StatusCode::NOT_FOUND };
    if wants_html(&headers) {
        let why = if home { Why::Home } else { Why::NotFound };
        return (status, Html(page.html(why, &method, uri.path()))).into_response();
    }
    if home {
        let table = page.routes.now();
        let body = serde_json::json!({ "app": page.app, "methods": table.paths() });
        return (status, axum::Json(body)).into_response();
    }
    let message = format!("no method {} here; calls are POST /package.Service/Method", uri.path());
    (status, axum::Json(serde_json::json!({ "code": "not_found", "message": message }))).into_response()
}

impl Page {
    fn html(&self, why: Why, method: &Method, path: &str) -> String {
        let table = self.routes.now();
        let list: String =
            table.paths().iter().map(|path| format!("<li><code>{}</code></li>", escape(path))).collect();
        let app = escape(&self.app);
        let what = escape(&format!("{method} {path}"));
        let (title, lead) = match why {
            Why::Home => (app.clone(), "This gateway answers calls, not pages. What it answers:".to_owned()),
            Why::NotFound => (
                format!("Not found – {app}"),
                format!("There is nothing at <code>{what}</code>. What this gateway answers:"),
            ),
            Why::NotByGet => (
                format!("Not a page – {app}"),
                format!("<code>{what}</code> is a call and no page. What this gateway answers:"),
            ),
        };
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;\
             padding:0 1rem;color:#222;background:#fff}}code{{background:#f2f2f2;padding:.1em .3em;border-radius:3px}}\
             @media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}code{{background:#2a2a2a}}}}\
             </style><h1>{title}</h1><p>{lead}</p><ul>{list}</ul><p>Call one with JSON: \
             <code>POST /package.Service/Method</code>, <code>Content-Type: application/json</code>.</p>"
        )
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Table;

    #[test]
    fn what_came_from_outside_is_escaped() {
        let page = Page { app: "shop".into(), routes: Routes::fixed(Table::default()) };
        let html = page.html(Why::NotFound, &Method::GET, "/<script>alert(1)</script>");
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"), "{html}");
    }
}
