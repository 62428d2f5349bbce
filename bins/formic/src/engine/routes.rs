//! The manifest's routes in the words of the control plane.

use formic_api::control::v1 as pb;
use formic_spec::{Manifest, Route, RoutePath};

/// What the gateway passes on as plain HTTP.
pub(crate) fn http(routes: &[Route]) -> Vec<pb::HttpRoute> {
    let route = |route: &Route| {
        let (path, exact) = match &route.path {
            RoutePath::Exact(path) => (path, true),
            RoutePath::Prefix(path) => (path, false),
        };
        pb::HttpRoute {
            name: route.name.clone(),
            service: route.service.clone(),
            host: route.host.clone().unwrap_or_default(),
            path: path.clone(),
            exact,
            methods: route.methods.clone(),
            headers: route.headers.clone().into_iter().collect(),
            strip: route.strip,
            timeout_ms: u64::try_from(route.timeout.get().as_millis()).unwrap_or(u64::MAX),
            max_body: route.max_body.map(|size| size.bytes()).unwrap_or_default(),
            ..Default::default()
        }
    };
    routes.iter().map(route).collect()
}

/// The services behind the gateway, each once: it is started when all of them are ready.
pub(crate) fn behind_gateway(manifest: &Manifest) -> Vec<String> {
    let mut names = manifest.gateway.as_ref().map(|gateway| gateway.expose.clone()).unwrap_or_default();
    for route in &manifest.routes {
        if !names.contains(&route.service) {
            names.push(route.service.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn every_key_of_a_route_gets_there() {
        let source = "[app]\nname = 'a'\n[gateway]\nexpose = ['s']\n[service.s]\ncargo = 's'\n[service.t]\ncargo = 't'\n\
            [route.'/x']\nservice = 't'\nhost = 'a.b'\nmethod = 'GET'\nheader = { x-a = '1' }\nstrip = true\n\
            timeout = '2s'\nmax_body = '1KiB'\n[route.y]\nservice = 's'\npath = '/y'\n";
        let manifest = Manifest::parse(source, "formic.toml").unwrap();
        let [x, y] = &http(&manifest.routes)[..] else { panic!("two routes") };
        assert_eq!(
            (x.service.as_str(), x.host.as_str(), x.path.as_str(), x.exact),
            ("t", "a.b", "/x", false)
        );
        assert_eq!(
            (&x.methods[..], x.headers["x-a"].as_str(), x.strip),
            (&["GET".to_owned()][..], "1", true)
        );
        assert_eq!((x.timeout_ms, x.max_body), (2000, 1024));
        assert_eq!((y.path.as_str(), y.exact, y.timeout_ms, y.max_body), ("/y", true, 15_000, 0));
        assert_eq!(behind_gateway(&manifest), ["s", "t"]);
    }
}
