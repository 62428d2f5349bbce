//! Names for what is generated, none of them taken twice.

use std::collections::HashSet;

use buffa_codegen::idents::{escape_mod_ident, to_shouty_snake_case};

use crate::schema::Schema;

/// What every client has besides its methods; a method of that name gives way.
const RESERVED: [&str; 2] = ["new", "clone"];

/// The names in use in a package's module.
pub(super) struct Names(HashSet<String>);

/// The names of what a service becomes.
pub(super) struct ServiceNames {
    pub(super) service: String,
    pub(super) server: String,
    pub(super) client: String,
    pub(super) marker: String,
    pub(super) methods: String,
    pub(super) constant: String,
}

/// The names of a service's methods in use.
#[derive(Default)]
pub(super) struct Methods(HashSet<String>);

// === impl Names ===

impl Names {
    /// Those of messages, of what buffa derives from them, and of packages below.
    pub(super) fn of_package(package: &str, schema: &Schema) -> Self {
        let mut names = HashSet::new();
        let below = if package.is_empty() { String::new() } else { format!("{package}.") };
        for file in schema.generated() {
            let own = file.package.as_deref().unwrap_or_default();
            if own == package {
                for message in file.message_type.iter().filter_map(|message| message.name.as_deref()) {
                    names.insert(format!("{message}View"));
                    names.insert(format!("{message}OwnedView"));
                    names.insert(snake_case(message));
                    names.insert(message.to_owned());
                }
                names.extend(file.enum_type.iter().filter_map(|values| values.name.clone()));
            } else if let Some(child) = own.strip_prefix(&below) {
                names.extend(child.split('.').next().map(str::to_owned));
            }
        }
        Self(names)
    }

    /// The services' own names come before any that is derived from another's.
    pub(super) fn reserve_services<'a>(&mut self, services: impl Iterator<Item = &'a str>) {
        self.0.extend(services.map(str::to_owned));
    }

    pub(super) fn service(&mut self, name: &str) -> ServiceNames {
        let snake = snake_case(name);
        let shouty = to_shouty_snake_case(name);
        ServiceNames {
            service: escape_mod_ident(name),
            server: self.pick(name, "Server", "RpcServer"),
            client: self.pick(name, "Client", "RpcClient"),
            marker: self.pick(name, "Marker", "RpcMarker"),
            methods: self.pick(&snake, "_methods", "_rpc_methods"),
            constant: self.pick(&shouty, "_NAME", "_RPC_NAME"),
        }
    }

    fn pick(&mut self, stem: &str, first: &str, second: &str) -> String {
        let mut name = format!("{stem}{first}");
        if self.0.contains(&name) {
            name = format!("{stem}{second}");
        }
        unique(&mut self.0, name)
    }
}

// === impl Methods ===

impl Methods {
    /// The function and the constant of a method.
    pub(super) fn name(&mut self, method: &str) -> (String, String) {
        let mut name = snake_case(method);
        if RESERVED.contains(&&*name) {
            name.push('_');
        }
        let name = unique(&mut self.0, name);
        let constant = name.trim_end_matches('_').to_uppercase();
        let constant = unique(&mut self.0, constant);
        (escape_mod_ident(&name), constant)
    }
}

fn unique(taken: &mut HashSet<String>, mut name: String) -> String {
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}

fn snake_case(name: &str) -> String {
    to_shouty_snake_case(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_give_way_to_keywords_clients_and_each_other() {
        let mut methods = Methods::default();
        let mut name = |method| methods.name(method);
        let pair = |function: &str, constant: &str| (function.to_owned(), constant.to_owned());
        assert_eq!(name("GetHTTPState"), pair("get_http_state", "GET_HTTP_STATE"));
        assert_eq!(name("Type"), pair("r#type", "TYPE"));
        assert_eq!(name("Self"), pair("self_", "SELF"));
        assert_eq!(name("New"), pair("new_", "NEW"));
        assert_eq!(name("get_http_state"), pair("get_http_state_", "GET_HTTP_STATE_"));
    }

    #[test]
    fn derived_names_give_way_to_the_packages_own() {
        let mut names = Names(HashSet::from(["UserClient".into(), "user_methods".into()]));
        names.reserve_services(["User", "UserServer"].into_iter());
        let user = names.service("User");
        assert_eq!(user.client, "UserRpcClient");
        assert_eq!(user.server, "UserRpcServer");
        assert_eq!(user.methods, "user_rpc_methods");
        assert_eq!(names.service("UserServer").server, "UserServerServer");
    }
}
