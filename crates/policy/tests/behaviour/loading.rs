use countersign_policy::{Bundle, Severity};

use crate::{Files, lift};

/// Asserts that a bundle is refused, with an error that says `what` and stands at `file:line`.
fn refused(files: &Files, at: &str, what: &str) {
    let findings = files.findings();
    let found = findings.iter().any(|f| {
        f.severity == Severity::Error && format!("{}:{}", f.file, f.line) == at && f.to_string().contains(what)
    });
    assert!(
        found,
        "expected `{what}` at {at}, found:\n{}",
        findings.iter().map(|f| format!("{f}\n")).collect::<String>()
    );
}

fn with_work(text: &str) -> Files {
    Files::usual().with("policies/more.cedar", text)
}

#[test]
fn a_bundle_says_what_it_is() {
    let bundle = Files::usual().load();
    assert_eq!((bundle.name(), bundle.revision(), bundle.warnings().len()), ("test", 7, 0));
    assert_eq!(bundle.operations().collect::<Vec<_>>(), ["export", "query"]);
    assert_eq!(bundle.rules().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), ["pii-needs-two"]);
    assert_eq!(bundle.asking("pii-needs-two").unwrap().quorum, 2);
    assert!(bundle.asking("all-work").is_none());
    let text = bundle.policy_text("pii-needs-two").unwrap();
    assert_eq!((text.file.as_str(), text.line), ("policies/work.cedar", 2));
    assert!(text.text.starts_with("@id(\"pii-needs-two\")"), "{}", text.text);
    assert!(bundle.policy_text("kernel-approval-expired").is_some());
    assert_eq!(bundle.digest(), Bundle::load(bundle.source().clone()).unwrap().digest());
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&bundle);
}

#[test]
fn the_composed_schema_is_one_that_cedar_reads() {
    let text = Files::usual().load().composed_schema().to_owned();
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(&text).unwrap();
    assert!(schema.actions().any(|action| action.id().unescaped() == "approve"));
    assert!(text.contains("@sensitive"), "{text}");
}

#[test]
fn all_findings_are_told_at_once() {
    let files = with_work(
        "@id(\"a\") @odd(\"x\")\npermit (principal, action, resource);\n\npermit (principal, action, resource);",
    )
    .with("bundle.toml", "format = 2\nname = \"test\"\nrevision = 1")
    .with("README", "x");
    refused(&files, "policies/more.cedar:1", "`@odd` is not known");
    refused(&files, "policies/more.cedar:4", "the policy has no id");
    refused(&files, "bundle.toml:1", "the format 2 is not known");
    refused(&files, "README:1", "belongs to no part of a bundle");
}

#[test]
fn what_is_missing_is_refused() {
    refused(&Files::usual().without("bundle.toml"), "bundle.toml:1", "is missing");
    refused(&Files::usual().without("schema.cedarschema"), "schema.cedarschema:1", "is missing");
    refused(&Files::usual().without("entities.json"), "entities.json:1", "is missing");
}

#[test]
fn files_that_would_be_ignored_are_refused() {
    for path in [
        "policies/a.txt",
        "policies/.a.cedar",
        "policy/a.cedar",
        "policies/sub/a.cedar",
        "scenarios/a.cedar",
        "properties/a.toml",
        "a.cedar",
    ] {
        refused(&Files::usual().with(path, ""), &format!("{path}:1"), "belongs to no part of a bundle");
    }
    Files::usual().with("scenarios/a.toml", "").load();
    // What is only stated about a bundle is read when somebody proves it, and keeps nothing from deciding.
    let stated = Files::usual().with("properties/a.cedar", "nonsense").load();
    assert_eq!(stated.digest(), Files::usual().load().digest());
    assert!(stated.statements().unwrap_err().to_string().contains("properties/a.cedar:1"));
}

#[test]
fn the_manifest_is_read_strictly() {
    let manifest = |text: &str| Files::usual().with("bundle.toml", text);
    refused(&manifest("format = 1\nname = \"a b\"\nrevision = 1"), "bundle.toml:2", "is not a bundle name");
    refused(&manifest("format = 1\nname = \"a\"\nrevision = -1"), "bundle.toml:3", "");
    refused(&manifest("format = 1\nname = \"a\"\nrevision = 1\nnote = 1"), "bundle.toml:4", "note");
    refused(&manifest("format = 1"), "bundle.toml:1", "name");
}

#[test]
fn a_half_written_bundle_is_refused_by_its_pinned_digest() {
    let pin = |files: Files| {
        let digest = files.source().content_digest();
        files.with("bundle.toml", &format!("format = 1\nname = \"a\"\nrevision = 1\ncontent_digest = \"{digest}\""))
    };
    let pinned = pin(Files::usual());
    pinned.load();
    refused(&pinned.replaced("entities.json", "olivia", "oliver"), "bundle.toml:4", "content digest");
}

#[test]
fn reserved_names_are_not_declared_again() {
    let declaring = |text: &str| {
        let files = Files::usual();
        let schema = format!("{text}\n{}", files.0["schema.cedarschema"]);
        files.with("schema.cedarschema", &schema)
    };
    for (text, name) in [
        ("entity Person;", "Person"),
        ("entity Tenant;", "Tenant"),
        ("type Agent = Long;", "Agent"),
        ("type CountersignNow = Long;", "CountersignNow"),
        ("entity CountersignX;", "CountersignX"),
        ("action approve;", "approve"),
        ("action publish appliesTo { principal: Agent, resource: Dataset };", "publish"),
    ] {
        refused(&declaring(text), "schema.cedarschema:1", &format!("`{name}`"));
    }
    refused(
        &declaring("action evil in [publish] appliesTo { principal: Agent, resource: Dataset };"),
        "schema.cedarschema:1",
        "member of the reserved action",
    );
    refused(
        &declaring("namespace N { entity E; action go appliesTo { principal: E, resource: E }; }"),
        "schema.cedarschema:1",
        "in the namespace",
    );
    refused(
        &declaring("action go appliesTo { principal: Group, resource: Dataset };"),
        "schema.cedarschema:1",
        "cannot be the principal",
    );
    refused(
        &declaring("action \"a b\" appliesTo { principal: Agent, resource: Dataset };"),
        "schema.cedarschema:1",
        "cannot be an operation",
    );
    refused(&declaring("entity X = { a: Nothing };"), "schema.cedarschema:1", "Nothing");
    refused(&declaring("entity = ;"), "schema.cedarschema:1", "");
}

#[test]
fn a_context_holds_input_and_environment_only() {
    let context = |text: &str| {
        let files = Files::usual();
        let schema = format!(
            "action go appliesTo {{ principal: Agent, resource: Dataset, context: {text} }};\n{}",
            files.0["schema.cedarschema"]
        );
        files.with("schema.cedarschema", &schema)
    };
    for field in ["session", "approval", "excluded", "operator", "digest", "now"] {
        refused(
            &context(&format!("{{ {field}: String }}")),
            "schema.cedarschema:1",
            &format!("context field `{field}`"),
        );
    }
    refused(&context("{ inputs: { a: Long } }"), "schema.cedarschema:1", "unknown context field `inputs`");
    refused(&context("{ input?: { a: Long } }"), "schema.cedarschema:1", "is optional");
    refused(&context("{ input: Long }"), "schema.cedarschema:1", "must be records");
    context("{}").load();
    let named = context("Ctx").replaced(
        "schema.cedarschema",
        "action go",
        "type Ctx = { input: In };\ntype In = { a: Set<Person> };\naction go",
    );
    named.load();
}

#[test]
fn sensitive_marks_are_where_they_protect() {
    let schema = |from: &str, to: &str| Files::usual().replaced("schema.cedarschema", from, to);
    refused(
        &schema("classification: String", "@sensitive classification: String"),
        "schema.cedarschema:2",
        "`@sensitive` stands where it has no effect",
    );
    refused(&schema("network?: String", "@sensitive network?: String"), "schema.cedarschema:7", "no effect");
    refused(&schema("limit?: Long", "deep?: { @sensitive a: Long }"), "schema.cedarschema:5", "no effect");
    refused(&schema("@sensitive token", "@sensitiv token"), "schema.cedarschema:7", "`@sensitiv` is not known");
}

#[test]
fn every_policy_has_an_id_of_its_own() {
    refused(&with_work("permit (principal, action, resource);"), "policies/more.cedar:1", "has no id");
    refused(
        &with_work("@id(\"A\") permit (principal, action, resource);"),
        "policies/more.cedar:1",
        "is not a policy id",
    );
    refused(&with_work("@id(\"kernel-x\") permit (principal, action, resource);"), "policies/more.cedar:1", "reserved");
    refused(&with_work("@id(\"all-work\") permit (principal, action, resource);"), "policies/work.cedar:1", "is taken");
    refused(
        &Files::usual().admin("@id(\"all-work\") forbid (principal, action, resource);"),
        "admin/admin.cedar:1",
        "is taken",
    );
    refused(
        &with_work("@id(\"t\") permit (principal == ?principal, action, resource);"),
        "policies/more.cedar:1",
        "templates",
    );
    refused(&with_work("@id(\"t\")\npermit (principal, action, resource) when { 1 + };"), "policies/more.cedar:2", "");
}

#[test]
fn annotations_come_from_a_closed_list() {
    let rule = |annotation: &str| {
        with_work(&format!("@id(\"r\") {annotation} forbid (principal, action == Action::\"export\", resource) {};", lift("r")))
        .with("approve/more.cedar", "@id(\"m\") permit (principal in Group::\"owners\", action == Action::\"approve\", resource) when { context.rule == \"r\" };")
    };
    for bad in ["@quorum(\"0\")", "@quorum(\"17\")", "@quorum(\"01\")", "@quorum(\"two\")", "@quorum"] {
        refused(&rule(bad), "policies/more.cedar:1", "is not a quorum");
    }
    for bad in ["@ttl(\"59s\")", "@ttl(\"25h\")", "@ttl(\"15\")", "@ttl"] {
        refused(&rule(bad), "policies/more.cedar:1", "is not a ttl");
    }
    refused(&rule(&format!("@reason(\"{}\")", "x".repeat(201))), "policies/more.cedar:1", "201 characters");
    refused(&rule("@qourum(\"2\")"), "policies/more.cedar:1", "`@qourum` is not known");
    let bundle = rule("@quorum(\"2\") @ttl(\"24h\")").load();
    assert_eq!(bundle.asking("r").map(|r| (r.quorum, r.ttl.as_secs())), Some((2, 86_400)));
    let plain = rule("").load();
    assert_eq!(plain.asking("r").map(|r| (r.quorum, r.ttl.as_secs())), Some((1, 900)));
    for bad in ["@pre_approval(\"1 uses, 2h\")", "@pre_approval(\"10 uses\")", "@pre_approval(\"2h\")", "@pre_approval"]
    {
        refused(&rule(bad), "policies/more.cedar:1", "is not what may be pre-approved");
    }
    let offering = rule("@pre_approval(\"10 uses, 2h\")").load().asking("r").unwrap().pre_approval.unwrap();
    assert_eq!((offering.uses, offering.seconds), (10, 7_200));
    assert_eq!(plain.asking("r").unwrap().pre_approval, None, "never offered unless the rule says so");
    for bad in ["@signed_votes(\"true\")", "@signed_votes(\"no\")", "@signed_votes(\"2\")"] {
        refused(&rule(bad), "policies/more.cedar:1", "is nothing that `@signed_votes` says");
    }
    assert!(rule("@signed_votes").load().asking("r").unwrap().signed_votes);
    assert!(!plain.asking("r").unwrap().signed_votes);
    for annotation in ["quorum", "ttl", "pre_approval", "signed_votes"] {
        let text =
            format!("@id(\"f\") @{annotation}(\"2\") forbid (principal, action == Action::\"query\", resource);");
        refused(&with_work(&text), "policies/more.cedar:1", "has no effect");
    }
    with_work("@id(\"f\") @reason(\"because\") forbid (principal, action == Action::\"query\", resource);").load();
}

#[test]
fn approvals_are_read_in_the_closed_form_only() {
    for (text, what) in [
        ("forbid (principal, action, resource) when { !(context has approval) }", "reads `context.approval`"),
        (
            "permit (principal, action, resource) when { context has approval && context.approval.persons.contains(Person::\"dana\") }",
            "reads `context.approval`",
        ),
        (
            "forbid (principal, action, resource) unless { context has approval && context.approval.rules.contains(\"other\") }",
            "reads `context.approval`",
        ),
        (
            "permit (principal, action, resource) unless { context has approval && context.approval.rules.contains(\"x\") }",
            "only a forbid",
        ),
        (
            "forbid (principal, action == Action::\"query\", resource) when { {c: context}.c.digest == \"\" }",
            "as a whole value",
        ),
    ] {
        refused(&with_work(&format!("@id(\"x\") {text};")), "policies/more.cedar:1", what);
    }
}

#[test]
fn each_set_has_its_own_actions() {
    refused(
        &with_work("@id(\"x\") permit (principal, action == Action::\"publish\", resource);"),
        "policies/more.cedar:1",
        "move it to `admin/`",
    );
    refused(
        &with_work("@id(\"x\") permit (principal, action in [Action::\"query\", Action::\"approve\"], resource);"),
        "policies/more.cedar:1",
        "move it to `approve/`",
    );
    let approve = |text: &str| Files::usual().with("approve/more.cedar", text);
    refused(
        &approve("@id(\"x\") permit (principal in Group::\"owners\", action, resource);"),
        "approve/more.cedar:1",
        "is not about answering",
    );
    refused(
        &approve("@id(\"x\") permit (principal in Group::\"owners\", action == Action::\"query\", resource);"),
        "approve/more.cedar:1",
        "is not about answering",
    );
    refused(
        &Files::usual().admin("@id(\"x\") permit (principal, action == Action::\"query\", resource);"),
        "admin/admin.cedar:1",
        "move it to `policies/`",
    );
    refused(
        &Files::usual().admin("@id(\"x\") permit (principal, action == Action::\"approve\", resource);"),
        "admin/admin.cedar:1",
        "move it to `approve/`",
    );
    refused(
        &Files::usual().admin("@id(\"x\") permit (principal, action, resource);"),
        "admin/admin.cedar:1",
        "permits every action",
    );
    Files::usual().admin("@id(\"x\") forbid (principal, action, resource);").load();
}

#[test]
fn a_rule_that_nobody_could_answer_is_refused() {
    refused(
        &Files::usual().without("approve/approve.cedar"),
        "policies/work.cedar:2",
        "asks for 2 and 0 could ever answer",
    );
    let empty = Files::usual().replaced("approve/approve.cedar", "owners\"", "empty\"");
    refused(&empty, "policies/work.cedar:2", "0 could ever answer");
    refused(
        &Files::usual().replaced("policies/work.cedar", "@quorum(\"2\")", "@quorum(\"3\")"),
        "policies/work.cedar:2",
        "asks for 3 and 2",
    );
    let one = Files::usual().replaced("approve/approve.cedar", "in Group::\"owners\"", "== Person::\"dana\"");
    refused(&one, "policies/work.cedar:2", "asks for 2 and 1");
    let anybody =
        Files::usual().replaced("approve/approve.cedar", "principal in Group::\"owners\"", "principal is Person");
    refused(&anybody, "approve/approve.cedar:1", "lets anybody answer");
    refused(
        &Files::usual().replaced("approve/approve.cedar", "pii-needs-two", "pii-needs-tow"),
        "approve/approve.cedar:1",
        "is no rule that people can lift",
    );
}

#[test]
fn those_who_answer_for_other_resources_do_not_count() {
    let other = Files::usual().replaced(
        "schema.cedarschema",
        "action reads;",
        "entity Role; action grant appliesTo { principal: Agent, resource: Role };\naction reads;",
    );
    other.load();
    let mismatched = other.replaced("approve/approve.cedar", "resource)", "resource is Role)");
    refused(&mismatched, "policies/work.cedar:2", "asks for 2 and 0 could ever answer");
}

#[test]
fn a_group_without_members_is_a_warning_where_others_answer() {
    let bundle = Files::usual()
        .with(
            "approve/more.cedar",
            "@id(\"x\") permit (principal in Group::\"empty\", action == Action::\"approve\", resource);",
        )
        .load();
    assert_eq!(bundle.warnings().len(), 1, "{:?}", bundle.warnings());
    assert!(bundle.warnings()[0].to_string().contains("is nobody"));
}

#[test]
fn policies_are_validated_strictly() {
    refused(
        &with_work(
            "@id(\"x\")\npermit (principal, action == Action::\"export\", resource)\nwhen { context.input.row > 5 };",
        ),
        "policies/more.cedar:3",
        "row",
    );
    refused(
        &with_work("@id(\"x\") permit (principal, action == Action::\"exprot\", resource);"),
        "policies/more.cedar:1",
        "exprot",
    );
    refused(
        &with_work(
            "@id(\"x\")\npermit (principal, action == Action::\"export\", resource)\nwhen { context.input.token == \"x\" };",
        ),
        "policies/more.cedar:3",
        "token",
    );
    refused(
        &with_work("@id(\"x\") permit (principal is Tenant, action == Action::\"export\", resource);"),
        "policies/more.cedar:1",
        "",
    );
    refused(
        &with_work("@id(\"x\") permit (principal, action == Action::\"export\", resource) when { 1 == 2 };"),
        "policies/more.cedar:1",
        "",
    );
}

#[test]
fn entities_fit_the_schema() {
    let entities = |from: &str, to: &str| Files::usual().replaced("entities.json", from, to);
    refused(&entities("\"classification\": \"public\"", "\"classification\": 5"), "entities.json:12", "docs");
    refused(
        &entities("\"accounts\": [\"dev#olivia\"]", "\"accounts\": [\"olivia\"]"),
        "entities.json:5",
        "is not an account",
    );
    refused(&entities("dev#olivia", "dev#dana"), "entities.json:5", "belongs to");
    // One human must not be two persons by a spelling.
    refused(&entities("dev#olivia", "dev#Dana"), "entities.json:5", "differ only in case");
    refused(&entities("dev#olivia", "dev#ｄａｎａ"), "entities.json:5", "differ only in case");
    refused(&entities("\"id\": \"dave\"", "\"id\": \"Dana \""), "entities.json:6", "differ only in case");
    refused(&entities("\"id\": \"dave\"", "\"id\": \"da\u{200b}na\""), "entities.json:6", "differ only in case");
    entities("[\"dev#olivia\"]", "[\"dev#olivia\", \"dev#Olivia\"]").load();
    refused(&entities("\"id\": \"dave\"", "\"id\": \"countersign:anybody\""), "entities.json:8", "reserved");
    refused(&entities("[", "("), "entities.json:1", "");
}

#[test]
fn a_bundle_in_which_nothing_can_be_asked_loads() {
    let bundle = Files::new().with("schema.cedarschema", "").with("entities.json", "[]").load();
    assert_eq!(bundle.operations().count(), 0);
}
