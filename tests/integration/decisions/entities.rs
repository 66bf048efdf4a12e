//! Entities in the store: changed while the server runs, over the API and from the command line.

use countersign::client::operation;
use countersign::proto::*;
use serde_json::{Value as Json, json};
use tonic::Code;

use crate::harness::cli::run_with_input;
use crate::harness::flow::{refused, *};
use crate::harness::{Bundle, Server};

/// Who keeps the datasets.
const KEEPER: &str = "service:vault-gateway";

/// The example bundle with its datasets in the store, and somebody to keep them; and the datasets.
fn bundle() -> (Bundle, Vec<Json>) {
    let mut datasets = Vec::new();
    let bundle = Bundle::example().edit(|files| {
        let all: Vec<Json> = serde_json::from_str(&files["entities.json"]).unwrap();
        let (kept, own): (Vec<Json>, Vec<Json>) = all.into_iter().partition(|e| e["uid"]["type"] == "Dataset");
        datasets = kept;
        files.insert("entities.json".to_owned(), Json::from(own).to_string());
        files.get_mut("bundle.toml").unwrap().push_str("\nstored = [\"Dataset\"]\n");
        files.get_mut("admin/service.cedar").unwrap().push_str(
            "\n@id(\"keeper\") permit (principal == Service::\"vault-gateway\", \
             action == Action::\"changeEntities\", resource) when { [\"Dataset\"].containsAll(context.types) };\n\
             @id(\"keeper-reads\") permit (principal == Service::\"vault-gateway\", \
             action == Action::\"readEntities\", resource);\n",
        );
    });
    (bundle, datasets)
}

async fn server() -> Server {
    let (bundle, datasets) = bundle();
    let server = Server::with_bundle(bundle).await;
    let done = upsert(&server, KEEPER, &Json::from(datasets)).await;
    assert!(done.is_ok(), "{done:?}");
    server
}

async fn upsert(server: &Server, who: &str, entities: &Json) -> Result<u64, String> {
    let env = [("COUNTERSIGN_ENDPOINT", server.endpoint()), ("COUNTERSIGN_TOKEN", &server.token(who, None, &[]))];
    let done = run_with_input(&["entity", "upsert", "-", "--json"], &env, &entities.to_string()).await;
    if done.code == 0 {
        Ok(done.json()["revision"].as_u64().unwrap())
    } else {
        Err(done.json_error()["reason"].to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_entity_decides_from_its_change_on_and_after_a_restart() {
    let mut server = server().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let input = json!({"rows": 1, "destination": "s3://ours-reports"});
    let public = operation("export", ("Dataset", "docs"), input, json!({})).unwrap();
    assert_eq!(decide(&agent, &session, &public).await.unwrap().verdict(), Verdict::Allow);
    let [before, after] =
        [must_mint(&agent, &session, &public, "").await, must_mint(&agent, &session, &public, "").await];
    let gateway = server.person(REDEEMER).await;
    redeem(&gateway, &before.token, &public).await.unwrap();

    let secret = json!({ "uid": { "type": "Dataset", "id": "docs" }, "attrs": { "classification": "pii", "exportable": false } });
    let revision = upsert(&server, KEEPER, &json!([secret])).await.unwrap();
    let mut question = question(&session, &public);
    question.min_entity_revision = revision;
    let answer = agent.decide(question.clone()).await.unwrap();
    assert_eq!(answer.revisions.unwrap().entities, Some(revision));
    assert_eq!(answer.verdict(), Verdict::Deny);
    question.min_entity_revision = revision + 1;
    question.request_id = crate::harness::fresh_id();
    let early = agent.decide(question).await;
    assert_eq!(refused(early), (Code::FailedPrecondition, "ENTITY_REVISION".to_owned()));

    // What the capability was minted on is not so any more.
    let spent = redeem(&gateway, &after.token, &public).await;
    assert_eq!(refused(spent), (Code::PermissionDenied, "POLICY_DENIED".to_owned()));

    let gone = server.cli(&server.token(KEEPER, None, &[]), &["entity", "delete", "Dataset::docs"]).await;
    assert_eq!(gone.code, 0, "{gone:?}");

    server.kill().await;
    server.restart().await;
    let keeper = server.token(KEEPER, None, &[]);
    let listed = server.cli(&keeper, &["entity", "list", "--type", "Dataset", "--json"]).await;
    let names: Vec<String> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["uid"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["customers", "payroll", "telemetry"]);
    // What was listed can be stored again.
    let env = [("COUNTERSIGN_ENDPOINT", server.endpoint()), ("COUNTERSIGN_TOKEN", &keeper)];
    let again = run_with_input(&["entity", "upsert", "-"], &env, &listed.stdout).await;
    assert!(again.stdout.starts_with("3 entities changed"), "{again:?}");
    let shown = server.cli(&keeper, &["entity", "show", "Dataset::customers"]).await;
    assert!(shown.stdout.contains("\"classification\":\"pii\""), "{shown:?}");
    server.terminate().await;
    server.log_verifies_offline().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_changed_is_refused_and_recorded() {
    let server = server().await;
    let before = server.audit_records().await.len();
    let dataset = |attrs: Json| json!([{ "uid": { "type": "Dataset", "id": "x" }, "attrs": attrs }]);
    let fits = json!({ "classification": "public", "exportable": true });
    for (who, entities, reason) in [
        ("dana", dataset(fits.clone()), "ADMINISTRATION_DENIED"),
        (KEEPER, dataset(json!({ "classification": "public" })), "INVALID_FIELD"),
        (KEEPER, dataset(json!({ "classification": 5, "exportable": true })), "INVALID_FIELD"),
        (KEEPER, json!([{ "uid": { "type": "Group", "id": "g" } }]), "ADMINISTRATION_DENIED"),
    ] {
        assert_eq!(upsert(&server, who, &entities).await, Err(format!("\"{reason}\"")), "{entities}");
    }
    assert_eq!(server.audit_kinds_since(before).await, [("refusal".to_owned(), 4)].into());

    let keeper = server.person(KEEPER).await;
    let nothing = keeper.change_entities(ChangeEntitiesRequest::default()).await;
    assert_eq!(refused(nothing).1, "INVALID_FIELD");
    let missing = GetEntityRequest { entity: Some(Entity { r#type: "Dataset".into(), id: "x".into() }) };
    assert_eq!(refused(keeper.get_entity(missing).await), (Code::NotFound, "ENTITY_NOT_FOUND".to_owned()));
    let bad = ListEntitiesRequest { page_token: "!".into(), ..Default::default() };
    assert_eq!(refused(keeper.list_entities(bad).await).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_entities_follow_one_another() {
    let server = server().await;
    let many: Vec<Json> = (0..60)
        .map(|n| {
            let attrs = json!({ "classification": "public", "exportable": true });
            json!({ "uid": { "type": "Dataset", "id": format!("n{n:02} \"quoted\" ü") }, "attrs": attrs })
        })
        .collect();
    upsert(&server, KEEPER, &Json::from(many)).await.unwrap();
    let keeper = server.person(KEEPER).await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListEntitiesRequest { r#type: "Dataset".into(), page_size: 7, page_token };
        let page = keeper.list_entities(request).await.unwrap();
        assert!(page.entities.len() <= 7);
        seen.extend(page.entities.into_iter().map(|stored| stored.entity.unwrap().id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 64);
    assert!(seen.is_sorted(), "{seen:?}");
}
