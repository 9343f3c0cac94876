//! The operator's will about DataNodes: who may join, and who is to leave or will be away. `node_files` reads it from files.

use std::net::IpAddr;

use dfs_proto::v1;

use super::host_pattern::HostPattern;

/// What is to become of a DataNode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// It serves.
    #[default]
    Serve,
    /// Its replicas are to be copied elsewhere, then it may go.
    Decommission,
    /// It will be away for a while: its replicas count meanwhile. Ends by itself at this time (ns since the epoch).
    Maintain {
        /// None: only the operator ends it.
        until_ns: Option<i64>,
    },
}

/// Who may join, and what is to become of whom.
#[derive(Clone, Debug, Default)]
pub struct HostRules {
    /// Empty: everybody may join.
    include: Vec<HostPattern>,
    duties: Vec<(HostPattern, Duty)>,
}

impl HostRules {
    /// Rules by which those of `include` may join, or everybody if it is empty. Of several duties that mean a DataNode the
    /// first counts.
    pub(super) fn new(include: Vec<HostPattern>, duties: Vec<(HostPattern, Duty)>) -> Self {
        Self { include, duties }
    }

    /// Rules for these uuids; all others serve.
    #[cfg(test)]
    pub(crate) fn of_duties(duties: &[(&str, Duty)]) -> Self {
        let duty = |&(uuid, duty): &(&str, Duty)| (HostPattern::parse(uuid).unwrap(), duty);
        Self { include: Vec::new(), duties: duties.iter().map(duty).collect() }
    }

    /// Rules by which only these uuids may join.
    #[cfg(test)]
    pub(crate) fn of_members(uuids: &[&str]) -> Self {
        Self { include: uuids.iter().map(|uuid| HostPattern::parse(uuid).unwrap()).collect(), duties: Vec::new() }
    }

    /// Whether the DataNode may join.
    pub fn admits(&self, id: &v1::DatanodeId, addresses: &[IpAddr]) -> bool {
        self.include.is_empty() || self.include.iter().any(|host| host.matches(id, addresses))
    }

    /// What is to become of the DataNode.
    pub fn duty_of(&self, id: &v1::DatanodeId, addresses: &[IpAddr]) -> Duty {
        let found = self.duties.iter().find(|(host, _)| host.matches(id, addresses));
        found.map_or(Duty::Serve, |(_, duty)| *duty)
    }
}
