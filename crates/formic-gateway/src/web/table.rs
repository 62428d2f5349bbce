//! Which route a request is for, and which instance of its service gets it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use formic_api::control::v1 as control;
use formic_core::{Instance, ServiceName};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::backend::Backend;

/// Requests of one shape, and who answers them.
#[derive(Debug, PartialEq)]
pub(crate) struct WebRoute {
    name: String,
    pub(crate) service: ServiceName,
    host: Host,
    path: String,
    exact: bool,
    methods: Vec<Method>,
    /// None is any value.
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    pub(crate) strip: bool,
    pub(crate) timeout: Duration,
    /// None is the gateway's own.
    pub(crate) max_body: Option<u64>,
}

/// In the order of how much it says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Any,
    /// What it ends with, the dot included.
    Below(String),
    Is(String),
}

/// The routes of a moment, and beside them the instances that they lead to.
#[derive(Debug, Default)]
pub(crate) struct WebTable {
    /// The most specific first.
    routes: Vec<Arc<WebRoute>>,
    backends: HashMap<ServiceName, Vec<Arc<Backend>>>,
}

// === impl WebRoute ===

impl WebRoute {
    /// None for what a newer daemon may mean and this gateway does not understand.
    fn read(route: &control::HttpRoute) -> Option<Self> {
        let header = |(name, value): (&String, &String)| {
            let value = if value == "*" { None } else { Some(HeaderValue::from_str(value).ok()?) };
            Some((HeaderName::try_from(name.as_str()).ok()?, value))
        };
        Some(Self {
            name: route.name.clone(),
            service: ServiceName::new(&route.service).ok()?,
            host: match route.host.as_str() {
                "" => Host::Any,
                host => match host.strip_prefix('*') {
                    Some(below) => Host::Below(below.to_owned()),
                    None => Host::Is(host.to_owned()),
                },
            },
            path: route.path.clone(),
            exact: route.exact,
            methods: route
                .methods
                .iter()
                .map(|method| method.parse().ok())
                .collect::<Option<Vec<Method>>>()?,
            headers: route.headers.iter().map(header).collect::<Option<Vec<_>>>()?,
            strip: route.strip,
            timeout: Duration::from_millis(route.timeout_ms),
            max_body: (route.max_body > 0).then_some(route.max_body),
        })
    }

    /// How specific it is: of two routes that fit, the greater one counts.
    fn rank(&self) -> (u8, usize, bool, usize, bool, usize) {
        let (kind, length) = match &self.host {
            Host::Any => (0, 0),
            Host::Below(name) => (1, name.len()),
            Host::Is(name) => (2, name.len()),
        };
        (kind, length, self.exact, self.path.len(), !self.methods.is_empty(), self.headers.len())
    }

    fn fits(&self, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> bool {
        let host = match &self.host {
            Host::Any => true,
            Host::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
            Host::Is(name) => host == name,
        };
        let has = |(name, value): &(HeaderName, Option<HeaderValue>)| match value {
            None => headers.contains_key(name),
            Some(value) => headers.get_all(name).iter().any(|found| found == value),
        };
        host && self.below(path).is_some()
            && (self.methods.is_empty() || self.methods.contains(method))
            && self.headers.iter().all(has)
    }

    /// What comes after the route's path, or nothing where the path is another's.
    fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.exact {
            return (path == self.path).then_some("");
        }
        let rest = path.strip_prefix(self.path.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// The path that the instance gets, and the prefix that was taken from it.
    pub(crate) fn rewritten<'p>(&'p self, path: &'p str) -> (&'p str, Option<&'p str>) {
        match self.below(path) {
            Some(rest) if self.strip => (if rest.is_empty() { "/" } else { rest }, Some(&self.path)),
            _ => (path, None),
        }
    }
}

// === impl WebTable ===

impl WebTable {
    /// The routes with the instances of their services; of instances that the earlier table knew, the
    /// connections stay.
    pub(crate) fn build(routes: &[control::HttpRoute], instances: &[Instance], earlier: &Self) -> Self {
        let read = routes.iter().filter_map(|route| {
            let read = WebRoute::read(route);
            if read.is_none() {
                tracing::warn!(
                    route = route.name,
                    "a route that this gateway does not understand is left out"
                );
            }
            read.map(Arc::new)
        });
        let mut routes: Vec<_> = read.collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.rank()));
        let mut backends: HashMap<ServiceName, Vec<Arc<Backend>>> = HashMap::new();
        for route in &routes {
            if backends.contains_key(&route.service) {
                continue;
            }
            let known = earlier.backends.get(&route.service).map_or(&[][..], Vec::as_slice);
            let of_service = instances.iter().filter(|instance| instance.service == route.service);
            let of_service = of_service.map(|instance| {
                let known = known.iter().find(|known| known.is(instance)).cloned();
                known.unwrap_or_else(|| Arc::new(Backend::new(instance)))
            });
            backends.insert(route.service.clone(), of_service.collect());
        }
        Self { routes, backends }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The most specific route that fits. The host is in lower case and without a port.
    pub(crate) fn find(
        &self,
        host: &str,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<&Arc<WebRoute>> {
        self.routes.iter().find(|route| route.fits(host, path, method, headers))
    }

    /// Of two instances at random the one with less to do, none of them tried before.
    pub(crate) fn pick(&self, service: &ServiceName, tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        let all = self.backends.get(service)?;
        let untried: Vec<_> =
            all.iter().filter(|backend| !tried.iter().any(|tried| Arc::ptr_eq(tried, backend))).collect();
        let first = fastrand::choice(&untried)?;
        let second = fastrand::choice(&untried)?;
        Some(Arc::clone(if second.under_way() < first.under_way() { second } else { first }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_core::{Endpoint, InstanceId};

    use super::*;

    fn route(name: &str, path: &str) -> control::HttpRoute {
        control::HttpRoute { name: name.into(), service: "s".into(), path: path.into(), ..Default::default() }
    }

    fn found(table: &WebTable, request: &str, headers: &[(&str, &str)]) -> Option<String> {
        let (method, rest) = request.split_once(' ').unwrap();
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        let headers =
            headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap>();
        table.find(host, path, &method.parse().unwrap(), &headers).map(|route| route.name.clone())
    }

    #[test]
    fn the_longest_match_wins() {
        let with = |name: &str, path: &str, change: fn(&mut control::HttpRoute)| {
            let mut route = route(name, path);
            change(&mut route);
            route
        };
        let routes = [
            route("all", "/"),
            route("reports", "/reports"),
            route("reports-2026", "/reports/2026"),
            with("exact", "/reports/2026", |r| r.exact = true),
            with("get", "/reports", |r| r.methods = vec!["GET".into()]),
            with("beta", "/reports", |r| drop(r.headers.insert("x-user".into(), "beta".into()))),
            with("any-debug", "/reports/2026", |r| drop(r.headers.insert("x-debug".into(), "*".into()))),
            with("site", "/", |r| r.host = "shop.example".into()),
            with("below", "/", |r| r.host = "*.shop.example".into()),
            with("deeper", "/", |r| r.host = "*.eu.shop.example".into()),
        ];
        let table = WebTable::build(&routes, &[], &WebTable::default());
        for (request, headers, name) in [
            ("GET /", &[][..], "all"),
            ("POST /reportsheet", &[], "all"),
            ("POST /reports", &[], "reports"),
            ("POST /reports/", &[], "reports"),
            ("GET /reports/2025", &[], "get"),
            ("GET /reports/2026", &[], "exact"),
            ("GET /reports/2026/", &[], "reports-2026"),
            ("GET /reports/2026/05", &[("x-debug", "1")], "any-debug"),
            ("POST /reports", &[("x-user", "beta")], "beta"),
            ("POST /reports", &[("x-user", "alpha")], "reports"),
            ("GET shop.example/reports/2026", &[], "site"),
            ("GET www.shop.example/x", &[], "below"),
            ("GET www.eu.shop.example/x", &[], "deeper"),
            ("GET eu.shop.example/x", &[], "below"),
            ("GET evilshop.example/x", &[], "all"),
        ] {
            assert_eq!(found(&table, request, headers).as_deref(), Some(name), "{request} {headers:?}");
        }
        let table = WebTable::build(&routes[1..2], &[], &WebTable::default());
        assert_eq!(found(&table, "GET /other", &[]), None);
    }

    #[test]
    fn a_prefix_is_taken_away_where_the_route_says_so() {
        let read =
            |path: &str, strip| WebRoute::read(&control::HttpRoute { strip, ..route("r", path) }).unwrap();
        assert_eq!(read("/reports", true).rewritten("/reports/a?b"), ("/a?b", Some("/reports")));
        assert_eq!(read("/reports", true).rewritten("/reports"), ("/", Some("/reports")));
        assert_eq!(read("/reports", false).rewritten("/reports/a"), ("/reports/a", None));
    }

    fn instance(id: &str, port: u16) -> Instance {
        Instance {
            id: InstanceId::new(id),
            service: ServiceName::new("s").unwrap(),
            version: String::new(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], port).into()),
            metadata: Default::default(),
            rpc: Vec::new(),
        }
    }

    #[test]
    fn instances_are_known_again_and_share_the_load() {
        let routes = [route("r", "/")];
        let service = ServiceName::new("s").unwrap();
        let first = WebTable::build(&routes, &[instance("a", 1), instance("b", 2)], &WebTable::default());
        let busy: Vec<_> = first.backends[&service].iter().filter(|b| b.is(&instance("a", 1))).collect();
        let _load = [busy[0].begin(), busy[0].begin()];
        let picks = |table: &WebTable, tried: &[Arc<Backend>]| {
            let mut of_a = 0;
            for _ in 0..1000 {
                of_a += usize::from(table.pick(&service, tried).unwrap().is(&instance("a", 1)));
            }
            of_a
        };
        // Only when both picks fall on it.
        assert!((150..350).contains(&picks(&first, &[])), "{}", picks(&first, &[]));
        assert_eq!(picks(&first, &[Arc::clone(busy[0])]), 0, "tried already");
        let second =
            WebTable::build(&routes, &[instance("c", 3), instance("a", 1), instance("b", 4)], &first);
        let a = second.backends[&service].iter().find(|b| b.is(&instance("a", 1))).unwrap();
        assert_eq!(a.under_way(), 2, "what is known of an instance stays");
        assert_eq!(second.backends[&service].len(), 3);
        assert!(!second.backends[&service].iter().any(|b| b.is(&instance("b", 2))), "it is elsewhere now");
        let gone = WebTable::build(&routes, &[], &second);
        assert!(gone.pick(&service, &[]).is_none());
    }
}
