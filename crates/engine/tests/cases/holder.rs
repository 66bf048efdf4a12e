//! Capabilities that are bound to a holder, and those that stay open.

use std::time::Duration;

use countersign_core::{Clock as _, Digest, Holder};
use countersign_engine::{Acting, Call, Decide, Decision, Error, Operation, Redeem, Verdict};
use countersign_store::MemoryKernel;
use countersign_token::{
    About, HolderError, HolderKey, Narrowing, TokenError, holder_of_certificate, narrow, unverified_claims,
};

use crate::{World, call, files, minted, operation, parts};

/// `seal` takes a holder; `sign` one with a key, and an owner's approval.
const POLICIES: &str = r#"
    @id("seal") permit (principal, action in [Action::"seal", Action::"sign"], resource is Dataset);
    @id("bound") forbid (principal, action in [Action::"seal", Action::"sign"], resource) unless { context has holder };
    @id("by-key") forbid (principal, action == Action::"sign", resource)
    when { context has holder && context.holder.kind != "key" };
    @id("sign-asks") @quorum("1") @ttl("15m") forbid (principal, action == Action::"sign", resource)
    unless { context has approval && context.approval.rules.contains("sign-asks") };
"#;
const ADMIN: &str = r#"
    @id("open") permit (principal, action == Action::"stayOpen", resource)
    when { context.operation == "query" || (context has holder && context.holder.kind == "key") };
    @id("log") permit (principal in Group::"admins", action == Action::"readLog", resource);
"#;
const APPROVE: &str = r#"
    @id("owners-sign") permit (principal in Group::"owners", action == Action::"approve", resource)
    when { context.rule == "sign-asks" };
"#;

struct Scene {
    world: World<MemoryKernel>,
    key: HolderKey,
}

/// How a decision is asked for.
#[derive(Clone, Copy, Default)]
struct Asked {
    holder: Option<Holder>,
    open: bool,
    approval: Option<countersign_core::ApprovalId>,
}

impl Scene {
    async fn new() -> Self {
        let mut files = files();
        let schema = files.get_mut("schema.cedarschema").unwrap();
        schema.push_str("action seal, sign appliesTo { principal: [Agent], resource: [Dataset] };\n");
        for (file, text) in
            [("policies/seal.cedar", POLICIES), ("admin/open.cedar", ADMIN), ("approve/sign.cedar", APPROVE)]
        {
            files.insert(file.to_owned(), text.to_owned());
        }
        let world = World::with(std::sync::Arc::new(MemoryKernel::default()), parts(), files).await;
        Self { world, key: HolderKey::generate().unwrap() }
    }

    fn bound(&self) -> Asked {
        Asked { holder: Some(self.key.holder()), ..Asked::default() }
    }

    async fn decide(&self, name: &str, Asked { holder, open, approval }: Asked) -> Result<Decision, Error> {
        let decide = Decide {
            session: self.world.session,
            operation: operation(name, "docs"),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval,
            mint: true,
            holder,
            open,
            entity_revision: None,
        };
        self.world.engine.decide(&call("agent:bot", "Decide"), &decide).await.map(|decided| decided.answer)
    }

    /// A redeem of this token, with what its holder signs now for the call.
    fn proved(&self, call: &Call, token: &str, operation: Operation) -> Redeem {
        let request_id = &call.request.as_ref().unwrap().id;
        let holder_proof = self.key.prove(token, request_id, self.world.clock.wall()).unwrap();
        Redeem { token: token.to_owned(), operation, audience: "gate".to_owned(), holder_proof }
    }

    async fn redeem(&self, call: &Call, redeem: &Redeem) -> Result<(), Error> {
        self.world.engine.redeem(call, redeem).await.map(drop)
    }
}

fn token(decision: &Decision) -> String {
    decision.token.as_ref().unwrap().expose().to_owned()
}

fn redeeming() -> Call {
    call("service:gate", "Redeem")
}

#[tokio::test]
async fn a_bound_capability_is_redeemed_with_its_holders_proof_and_with_nothing_else() {
    let scene = Scene::new().await;
    let decision = scene.decide("seal", scene.bound()).await.unwrap();
    let token = token(&decision);
    let seal = || operation("seal", "docs");
    let attempt = redeeming();
    let good = scene.proved(&attempt, &token, seal());
    let about = About {
        token: Digest::of(token.as_bytes()),
        digest: decision.digest,
        audience: "gate",
        request_id: &attempt.request.as_ref().unwrap().id,
        now: scene.world.clock.wall(),
    };
    let signed = |about: About<'_>| Redeem { holder_proof: scene.key.sign(&about), ..good.clone() };
    let thief = HolderKey::generate().unwrap();
    let wrong = [
        (Redeem { holder_proof: String::new(), ..good.clone() }, "Missing"),
        (Redeem { holder_proof: "a.b.c".to_owned(), ..good.clone() }, "Malformed"),
        (Redeem { holder_proof: thief.sign(&about), ..good.clone() }, "OtherKey"),
        (signed(About { token: Digest::of(b"another"), ..about }), "OtherToken"),
        (signed(About { digest: Digest::of(b"another"), ..about }), "OtherAction"),
        (signed(About { audience: "another", ..about }), "OtherAudience"),
        (signed(About { request_id: "another", ..about }), "OtherRequest"),
    ];
    for (redeem, expected) in &wrong {
        // A certificate is nothing to a capability that is bound to a key.
        let attempt = Call { certificate: Some(scene.key.holder().thumbprint), ..attempt.clone() };
        match scene.redeem(&attempt, redeem).await {
            Err(Error::Holder(error)) => assert!(format!("{error:?}").starts_with(expected), "{error:?}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    // Another action, signed for: the token is not for it.
    let other = Redeem { operation: operation("query", "docs"), ..good.clone() };
    assert!(matches!(scene.redeem(&attempt, &other).await, Err(Error::Holder(HolderError::OtherAction))));
    // By the server's clock.
    scene.world.clock.advance(Duration::from_secs(61));
    assert!(matches!(scene.redeem(&attempt, &good).await, Err(Error::Holder(HolderError::Stale("too old")))));
    // Nothing of it spent the capability.
    let good = scene.proved(&attempt, &token, seal());
    scene.redeem(&attempt, &good).await.unwrap();
    let again = redeeming();
    let good = scene.proved(&again, &token, seal());
    assert!(matches!(scene.redeem(&again, &good).await, Err(Error::Capability(_))));
}

#[tokio::test]
async fn a_capability_that_is_bound_to_a_certificate_is_redeemed_over_a_connection_that_has_it() {
    let scene = Scene::new().await;
    let own = holder_of_certificate(b"own");
    let decision = scene.decide("seal", Asked { holder: Some(own), ..Asked::default() }).await.unwrap();
    let redeem =
        Redeem { token: token(&decision), operation: operation("seal", "docs"), ..scene.world.redeem(&decision) };
    let over = |certificate| Call { certificate, ..redeeming() };
    let missing = scene.redeem(&over(None), &redeem).await;
    assert!(matches!(missing, Err(Error::Holder(HolderError::Missing(_)))), "{missing:?}");
    let other = scene.redeem(&over(Some(Digest::of(b"another"))), &redeem).await;
    assert!(matches!(other, Err(Error::Holder(HolderError::OtherCertificate))), "{other:?}");
    scene.redeem(&over(Some(own.thumbprint)), &redeem).await.unwrap();
}

#[tokio::test]
async fn policies_demand_a_holder_at_decide_and_again_at_redeem() {
    let scene = Scene::new().await;
    let bearer = scene.decide("seal", Asked::default()).await.unwrap();
    assert!(matches!(bearer.verdict, Verdict::Deny { .. }), "{bearer:?}");
    // Minted when no policy wanted a holder, and redeemed when one does.
    let query = scene.decide("query", Asked::default()).await.unwrap();
    let mut files = files();
    let demand = r#"@id("d") forbid (principal, action == Action::"query", resource) unless { context has holder };"#;
    files.insert("policies/demand.cedar".to_owned(), demand.to_owned());
    let manifest = files.get_mut("bundle.toml").unwrap();
    *manifest = manifest.replace("revision = 1", "revision = 2");
    scene.world.engine.activate(crate::source(files), countersign_engine::RevisionRule::NotLower).await.unwrap();
    let refused = scene.redeem(&redeeming(), &scene.world.redeem(&query)).await;
    assert!(matches!(&refused, Err(Error::PolicyDenied(by)) if by == &["d"]), "{refused:?}");
}

#[tokio::test]
async fn people_are_asked_about_what_only_a_holder_may_do() {
    let scene = Scene::new().await;
    let asked = scene.world.ask_with(operation("sign", "docs")).await.unwrap();
    scene.world.engine.reconsider(asked).await.unwrap();
    scene.world.vote("dana", asked).await.unwrap();
    scene.world.engine.reconsider(asked).await.unwrap();
    // Their approval frees nobody of being bound.
    let with = |holder| Asked { holder, approval: Some(asked), open: false };
    for holder in [None, Some(holder_of_certificate(b"own"))] {
        let denied = scene.decide("sign", with(holder)).await.unwrap();
        assert!(matches!(denied.verdict, Verdict::Deny { .. }), "{denied:?}");
    }
    let decision = scene.decide("sign", with(Some(scene.key.holder()))).await.unwrap();
    let attempt = redeeming();
    let redeem = scene.proved(&attempt, &token(&decision), operation("sign", "docs"));
    scene.redeem(&attempt, &redeem).await.unwrap();
}

#[tokio::test]
async fn an_answer_without_a_capability_has_no_holder() {
    let scene = Scene::new().await;
    for (holder, open, field) in [(Some(scene.key.holder()), false, "holder"), (None, true, "open")] {
        let decide = Decide {
            session: scene.world.session,
            operation: operation("query", "docs"),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval: None,
            mint: false,
            holder,
            open,
            entity_revision: None,
        };
        let refused = scene.world.engine.decide(&call("agent:bot", "Decide"), &decide).await;
        assert!(matches!(&refused, Err(Error::InvalidField { field: f, .. }) if f == field), "{refused:?}");
    }
}

#[tokio::test]
async fn a_proof_for_a_bearer_token_is_refused() {
    let scene = Scene::new().await;
    let decision = scene.decide("query", Asked::default()).await.unwrap();
    let attempt = redeeming();
    let redeem = scene.proved(&attempt, &token(&decision), operation("query", "docs"));
    let refused = scene.redeem(&attempt, &redeem).await;
    assert!(matches!(&refused, Err(Error::InvalidField { field, .. }) if field == "holder_proof"), "{refused:?}");
}

#[tokio::test]
async fn a_capability_stays_open_only_where_policies_say_so() {
    let scene = Scene::new().await;
    let open = |asked: Asked| Asked { open: true, ..asked };
    assert!(scene.decide("query", open(Asked::default())).await.unwrap().token.is_some());
    assert!(scene.decide("seal", open(scene.bound())).await.unwrap().token.is_some());
    let certificate = Asked { holder: Some(holder_of_certificate(b"own")), ..Asked::default() };
    let refused = scene.decide("seal", open(certificate)).await;
    assert!(matches!(&refused, Err(Error::AdministrationDenied { action: "stayOpen", .. })), "{refused:?}");
    // Without the policy, nobody.
    let plain = World::new().await;
    let refused = Scene { world: plain, key: HolderKey::generate().unwrap() };
    let refused = refused.decide("query", open(Asked::default())).await;
    assert!(matches!(&refused, Err(Error::AdministrationDenied { action: "stayOpen", .. })), "{refused:?}");
}

#[tokio::test]
async fn narrowed_copies_are_one_capability() {
    let scene = Scene::new().await;
    let decision = scene.decide("query", Asked { open: true, ..Asked::default() }).await.unwrap();
    let first = token(&decision);
    let soon = scene.world.clock.wall().plus(Duration::from_secs(10));
    let narrowed = |narrowing| narrow(&first, &narrowing).unwrap().expose().to_owned();
    let short = narrowed(Narrowing { expires_at: Some(soon), audience: None });
    let here = narrowed(Narrowing { expires_at: None, audience: Some("gate".to_owned()) });
    let nowhere = narrowed(Narrowing { expires_at: None, audience: Some("another".to_owned()) });
    assert_eq!(unverified_claims(&short).unwrap().token_id, minted(&decision));
    let redeem = |token: &str| Redeem { token: token.to_owned(), ..scene.world.redeem(&decision) };
    let refused = scene.redeem(&redeeming(), &redeem(&nowhere)).await;
    assert!(matches!(refused, Err(Error::Token(TokenError::Audience))), "{refused:?}");
    scene.world.clock.advance(Duration::from_secs(10));
    let refused = scene.redeem(&redeeming(), &redeem(&short)).await;
    assert!(matches!(refused, Err(Error::Token(TokenError::Expired(_)))), "{refused:?}");
    scene.redeem(&redeeming(), &redeem(&here)).await.unwrap();
    for copy in [&first, &here] {
        let again = scene.redeem(&redeeming(), &redeem(copy)).await;
        assert!(matches!(again, Err(Error::Capability(_))), "{again:?}");
    }
}

#[tokio::test]
async fn a_narrowed_copy_of_a_bound_capability_takes_a_proof_of_its_own() {
    let scene = Scene::new().await;
    let decision = scene.decide("seal", Asked { open: true, ..scene.bound() }).await.unwrap();
    let first = token(&decision);
    let narrowing = Narrowing { expires_at: None, audience: Some("gate".to_owned()) };
    let copy = narrow(&first, &narrowing).unwrap().expose().to_owned();
    let attempt = redeeming();
    let of_the_first = scene.proved(&attempt, &first, operation("seal", "docs")).holder_proof;
    let good = scene.proved(&attempt, &copy, operation("seal", "docs"));
    let refused = scene.redeem(&attempt, &Redeem { holder_proof: of_the_first, ..good.clone() }).await;
    assert!(matches!(refused, Err(Error::Holder(HolderError::OtherToken))), "{refused:?}");
    scene.redeem(&attempt, &good).await.unwrap();
}

#[tokio::test]
async fn who_holds_it_is_on_record() {
    let scene = Scene::new().await;
    let decision = scene.decide("seal", Asked { open: true, ..scene.bound() }).await.unwrap();
    let attempt = redeeming();
    let stolen =
        Redeem { holder_proof: String::new(), ..scene.proved(&attempt, &token(&decision), operation("seal", "docs")) };
    scene.redeem(&attempt, &stolen).await.unwrap_err();
    let attempt = redeeming();
    let redeem = scene.proved(&attempt, &token(&decision), operation("seal", "docs"));
    scene.redeem(&attempt, &redeem).await.unwrap();
    let records = scene.world.engine.records(&call("adam", "ListRecords"), 0, 200).await.unwrap().0;
    let records: Vec<serde_json::Value> =
        records.iter().map(|(_, content)| serde_json::from_slice(content).unwrap()).collect();
    let last = |kind: &str| records.iter().rfind(|record| record["kind"] == kind).unwrap();
    let holder = serde_json::json!({ "kind": "key", "thumbprint": scene.key.holder().thumbprint.to_string() });
    assert_eq!(last("decision")["minted"]["holder"], holder);
    assert_eq!(last("decision")["minted"]["open"], true);
    assert_eq!(last("decision")["context"]["holder"]["kind"], "key");
    assert_eq!(last("redeem")["holder"], holder);
    assert_eq!(last("refusal")["about"], format!("token {}", Digest::of(redeem.token.as_bytes())));
    assert!(last("refusal")["error"].as_str().unwrap().contains("no `holder_proof` was sent"));
}
