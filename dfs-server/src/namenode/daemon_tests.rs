//! What goes on beside the calls.

use super::*;

#[tokio::test]
async fn a_namenode_whose_journal_has_ended_does_not_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.set(&format!("dfs.namenode.name.dir={}", dir.path().display())).unwrap();
    format(&config, None).unwrap();
    let namesystem = start(&config).await.unwrap();
    namesystem.journal().shutdown().await.unwrap();
    let tended = tokio::time::timeout(Duration::from_secs(20), tend(&namesystem, &config)).await;
    let error = tended.expect("it ends").unwrap_err();
    assert!(error.message().starts_with("the journal has ended"), "{}", error.message());
}
