//! A name by which the operator's files mean DataNodes: a host, an address, either with `:port`, or a uuid.

use std::net::{IpAddr, ToSocketAddrs};

use dfs_proto::v1;

/// A name that a file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPattern {
    text: String,
    /// The addresses behind a name.
    addresses: Vec<IpAddr>,
    port: Option<u32>,
}

impl HostPattern {
    /// Reads it, and looks up the addresses behind a name.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            // An IPv6 address has more than one colon.
            Some((host, port)) if !host.contains(':') => {
                let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
                (host, Some(u32::from(port)))
            }
            _ => (text, None),
        };
        if host.is_empty() || host.contains(['/', '*', ',']) {
            return Err(format!("{text:?} is not a host, an address or a uuid"));
        }
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address.to_canonical()],
            // A uuid or a name that nobody knows stands for itself.
            Err(_) => (host, 0u16)
                .to_socket_addrs()
                .map_or(Vec::new(), |found| found.map(|address| address.ip().to_canonical()).collect()),
        };
        Ok(Self { text: host.to_owned(), addresses, port })
    }

    /// Whether it means this DataNode.
    pub(super) fn matches(&self, id: &v1::DatanodeId, addresses: &[IpAddr]) -> bool {
        if self.text == id.uuid {
            return true;
        }
        let is_host = self.text.eq_ignore_ascii_case(&id.host);
        let is_address = self.addresses.iter().any(|address| addresses.contains(address));
        (is_host || is_address) && self.port.is_none_or(|port| port == id.data_port)
    }
}
