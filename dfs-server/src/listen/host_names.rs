//! The names by which a daemon's HTTP port may be asked: those that are this machine's.
//!
//! Whoever owns a name can have it lead to any address, also to one inside this network, and a browser then takes our answers for
//! those of that name's pages (DNS rebinding). So a name must be known here: `localhost`, what the machine calls itself (its
//! host name, alone and with the domains that it searches, and the other names on that name's lines of `/etc/hosts`), the hosts in
//! the configured addresses, and those of `dfs.http.server-names`. An address needs no name, and cannot be made to lead elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::http::uri::Authority;
use dfs_common::config_file::Config;

/// Where the operator adds names.
pub(crate) const NAMES_KEY: &str = "dfs.http.server-names";
/// Stands for all names there.
const ANY: &str = "*";
/// Keys with `host` or `host:port`, of this daemon or of others.
const ADDRESS_KEYS: [&str; 8] = [
    "dfs.namenode.address",
    "dfs.namenode.rpc-address",
    "dfs.namenode.http-address",
    "dfs.namenode.secondary.http-address",
    "dfs.datanode.hostname",
    "dfs.datanode.address",
    "dfs.datanode.ipc.address",
    "dfs.datanode.http.address",
];

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostNames {
    /// In lower case, without port and without a dot at the end.
    names: BTreeSet<String>,
    is_any: bool,
}

impl HostNames {
    /// The names of this machine, and those of the configuration.
    pub(crate) fn of(config: &Config) -> Self {
        // What cannot be read names nothing: addresses and configured names are there then.
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let [own, hosts, resolver] = ["/proc/sys/kernel/hostname", "/etc/hosts", "/etc/resolv.conf"].map(read);
        let mut names = names_of_machine(own.trim(), &hosts, &resolver);
        let addresses = ADDRESS_KEYS.iter().flat_map(|key| config.list(key));
        names.extend(addresses.filter_map(|address| Some(plain(address.parse::<Authority>().ok()?.host()))));
        let added = config.list(NAMES_KEY);
        names.extend(added.iter().map(|name| plain(name)));
        Self { names, is_any: added.iter().any(|name| name == ANY) }
    }

    /// Whether this is a name or an address by which one may ask.
    pub(super) fn has(&self, host: &str) -> bool {
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let name = plain(host);
        self.is_any || name == "localhost" || address.parse::<IpAddr>().is_ok() || self.names.contains(&name)
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// What the machine with this host name is called, by the texts of `/etc/hosts` and `/etc/resolv.conf`.
fn names_of_machine(own: &str, hosts: &str, resolver: &str) -> BTreeSet<String> {
    let own = plain(own);
    let Some(label) = own.split('.').next().filter(|label| !label.is_empty()) else { return BTreeSet::new() };
    let mut names = BTreeSet::from([own.clone(), label.to_owned()]);
    for line in resolver.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            names.extend(words.map(|domain| plain(&format!("{label}.{domain}"))));
        }
    }
    for line in hosts.lines() {
        let words = line.split('#').next().unwrap_or_default().split_whitespace();
        let of_line: Vec<String> = words.skip(1).map(plain).collect();
        if of_line.iter().any(|name| *name == own || name == label) {
            names.extend(of_line);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machine_are_its_own_alone_and_with_its_domains() {
        let hosts = "127.0.0.1 localhost\n10.0.0.7\tnn1.corp.example NN1 namenode # ours\n10.0.0.8 nn2 other\n";
        let names = names_of_machine("nn1", hosts, "nameserver 10.0.0.1\nsearch a.example b.example.\n");
        let expected = ["namenode", "nn1", "nn1.a.example", "nn1.b.example", "nn1.corp.example"];
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        let names = names_of_machine("nn1.corp.example", "", "");
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["nn1", "nn1.corp.example"]);
        assert!(names_of_machine("", hosts, "search a.example").is_empty());
    }

    #[test]
    fn has_addresses_localhost_and_configured_names_only() {
        let mut config = Config::default();
        config.set("dfs.namenode.address=namenode.example:9820,[fd00::1]:9820").unwrap();
        config.set("dfs.datanode.hostname=dn1").unwrap();
        config.set("dfs.http.server-names=proxy.example").unwrap();
        let names = HostNames::of(&config);
        for known in
            ["localhost", "127.0.0.1", "[::1]", "NameNode.Example", "namenode.example.", "dn1", "proxy.example"]
        {
            assert!(names.has(known), "{known}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "10.0.0.1.evil.example", "", "namenode.example.evil"]
        {
            assert!(!names.has(foreign), "{foreign}");
        }
        config.set("dfs.http.server-names=*").unwrap();
        assert!(HostNames::of(&config).has("evil.example"));
    }
}
