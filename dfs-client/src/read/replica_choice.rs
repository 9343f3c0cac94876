//! In which order the replicas of a block are asked.

use crate::datanode::{Node, Replica};

/// Indices of `replicas` in the order to ask: the NameNode's (nearest first), with nodes that failed lately last.
pub(crate) fn choose_order(replicas: &[Replica], is_suspect: impl Fn(&Node) -> bool) -> Vec<usize> {
    let mut good = Vec::with_capacity(replicas.len());
    let mut suspect = Vec::new();
    for (index, replica) in replicas.iter().enumerate() {
        if is_suspect(&replica.node) { suspect.push(index) } else { good.push(index) }
    }
    good.append(&mut suspect);
    good
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dfs_proto::v1;

    use super::*;

    fn replicas(uuids: &[&str]) -> Vec<Replica> {
        let replica = |uuid: &&str| {
            let id = v1::DatanodeId {
                uuid: (*uuid).into(),
                host: "h".into(),
                data_port: 1,
                grpc_port: 1,
                ..Default::default()
            };
            Replica { node: Arc::new(Node::try_from(id).unwrap()), storage_uuid: String::new() }
        };
        uuids.iter().map(replica).collect()
    }

    #[test]
    fn choose_order_table() {
        let replicas = replicas(&["a", "b", "c"]);
        for (suspects, expected) in [("", [0, 1, 2]), ("a", [1, 2, 0]), ("ab", [2, 0, 1]), ("abc", [0, 1, 2])] {
            let order = choose_order(&replicas, |node| suspects.contains(&node.uuid));
            assert_eq!(order, expected, "suspects {suspects:?}");
        }
    }
}
