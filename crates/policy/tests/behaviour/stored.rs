//! Entities in the store answer as entities in the bundle do.

use std::collections::BTreeMap;
use std::path::Path;

use countersign_core::EntityRef;
use countersign_policy::scenario::Scenario;
use countersign_policy::{Bundle, Entities, EntityData, EntityMisfit, Reads, Source};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::{Ask, Files, answering, entity, person};

/// An entity of `entities.json`, as it would be stored.
fn stored(json: &Json) -> (EntityRef, EntityData) {
    let data = json!({ "attrs": json["attrs"], "parents": json["parents"] });
    (serde_json::from_value(json["uid"].clone()).unwrap(), serde_json::from_value(data).unwrap())
}

/// The same bundle with all its entities in the store.
fn moved(source: &Source) -> (Bundle, Entities) {
    let mut files: BTreeMap<String, String> = source.files().clone();
    let listed: Vec<Json> = serde_json::from_str(&files["entities.json"]).unwrap();
    let all: Vec<_> = listed.iter().map(stored).collect();
    let mut types: Vec<&str> = all.iter().map(|(entity, _)| entity.kind()).collect();
    types.sort_unstable();
    types.dedup();
    files.get_mut("bundle.toml").unwrap().push_str(&format!("stored = {types:?}\n"));
    files.insert("entities.json".to_owned(), "[]".to_owned());
    let bundle = Bundle::load(Source::from_files(files).unwrap()).unwrap();
    let entities = hold(&bundle, &all).unwrap();
    (bundle, entities)
}

fn hold(bundle: &Bundle, all: &[(EntityRef, EntityData)]) -> Result<Entities, EntityMisfit> {
    let mut entities = Entities::default();
    for (number, (entity, data)) in (1..).zip(all) {
        let checked = bundle.check_entity(entity, data)?;
        bundle.with(&entities, None).admit(&checked)?;
        entities.insert(checked, number);
    }
    Ok(entities)
}

#[test]
fn the_shipped_bundles_answer_the_same_with_all_entities_in_the_store() {
    for name in ["ai-platform", "minimal", "holders"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name);
        let (bundle, entities) = moved(&Source::read_dir(&path).unwrap());
        let mut played = 0;
        for (path, text) in bundle.source().files().iter().filter(|(path, _)| path.starts_with("scenarios/")) {
            for scenario in Scenario::parse_file(text).unwrap() {
                played += 1;
                let wrong = scenario.play(bundle.with(&entities, None));
                assert!(wrong.is_empty(), "{path}: {wrong:?}");
            }
        }
        assert!(played > 1);
    }
}

#[test]
fn what_was_read_is_told_and_what_was_not_there_too() {
    let (bundle, entities) = moved(&Files::usual().source());
    let reads = Reads::default();
    let view = bundle.with(&entities, Some(&reads));
    let docs = entity("Dataset::\"docs\"");
    drop(Ask::new("query", "docs", "{}").on(view).unwrap());
    let all = reads.all();
    assert!(all[&docs].is_some() && all[&entity("Agent::\"bot\"")].is_some(), "{all:?}");
    // Nobody looks at what the action cannot reach.
    assert!(!all.contains_key(&entity("Dataset::\"customers\"")) && !all.contains_key(&person("dana")), "{all:?}");

    let reads = Reads::default();
    let view = bundle.with(&entities, Some(&reads));
    let missing = entity("Dataset::\"missing\"");
    drop(Ask::new("query", "missing", "{}").on(view).unwrap());
    assert_eq!(reads.all()[&missing], None);
}

#[test]
fn a_person_answers_while_the_store_has_them_in_the_group() {
    let (bundle, mut entities) = moved(&Files::usual().source());
    let (resource, requester, nobody) =
        (entity("Dataset::\"customers\""), entity("Agent::\"bot\""), Default::default());
    let query = answering(&resource, &requester, &nobody);
    let answerers = |entities: &Entities| bundle.with(entities, None).answerers("pii-needs-two", &query, 10).persons;
    assert_eq!(answerers(&entities), [person("dana"), person("dave")]);
    let outside: EntityData = serde_json::from_value(json!({ "attrs": { "accounts": ["dev#dana"] } })).unwrap();
    entities.insert(bundle.check_entity(&person("dana"), &outside).unwrap(), 100);
    assert_eq!(answerers(&entities), [person("dave")]);
    assert!(!bundle.with(&entities, None).may_answer("pii-needs-two", &person("dana"), &query).permitted);
    // One account less is one account less.
    assert_eq!(bundle.with(&entities, None).person_of("sso#dana"), None);
    assert_eq!(bundle.with(&entities, None).person_of("dev#dana"), Some(person("dana")));
    bundle.forget_entity(&mut entities, &entity("Group::\"night-owners\""));
    assert_eq!(answerers(&entities), [person("dave")].into_iter().filter(|_| false).collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let (bundle, entities) = moved(&Files::usual().source());
    let check = |name: &str, data: Json| {
        let data: EntityData = serde_json::from_value(data).unwrap();
        let checked = bundle.check_entity(&entity(name), &data)?;
        bundle.with(&entities, None).admit(&checked)
    };
    let group = |id: &str| json!({ "type": "Group", "id": id });
    for (name, data, reason) in [
        ("Dataset::\"x\"", json!({ "attrs": {} }), "classification"),
        ("Dataset::\"x\"", json!({ "attrs": { "classification": 5 } }), "classification"),
        ("Dataset::\"x\"", json!({ "attrs": { "classification": "a", "more": 1 } }), "more"),
        ("Dataset::\"x\"", json!({ "attrs": { "classification": "a" }, "parents": [group("owners")] }), "Group"),
        ("Agent::\"x\"", json!({ "attrs": { "owner": { "type": "Agent", "id": "bot" } } }), "owner"),
        ("Person::\"x\"", json!({ "attrs": { "accounts": ["dev#dana"] } }), "that of `Person::\"dana\"`"),
        ("Person::\"x\"", json!({ "attrs": { "accounts": ["dana"] } }), "issuer#subject"),
        ("Person::\"Dana\"", json!({ "attrs": { "accounts": [] } }), "differ only in case"),
        ("Person::\"dana \"", json!({ "attrs": { "accounts": [] } }), "`Person::\"dana\"` differ only in case"),
        ("Person::\"ｄａｎａ\"", json!({ "attrs": { "accounts": [] } }), "differ only in case"),
        ("Person::\"da\u{200b}na\"", json!({ "attrs": { "accounts": [] } }), "differ only in case"),
        ("Person::\"x\"", json!({ "attrs": { "accounts": ["dev#dan\u{ad}a"] } }), "differ only in case"),
        ("Person::\"countersign:anybody\"", json!({ "attrs": { "accounts": [] } }), "reserved"),
        ("Group::\"owners\"", json!({ "parents": [group("night-owners")] }), "below itself"),
        ("Group::\"g\"", json!({ "parents": [group("g")] }), "cycle"),
        ("Tenant::\"t\"", json!({}), "not stored"),
        ("Nothing::\"t\"", json!({}), "not stored"),
    ] {
        let misfit = check(name, data).unwrap_err().to_string();
        assert!(misfit.contains(reason), "{name}: {misfit}");
    }
}

#[test]
fn a_person_can_change_and_make_room_for_another_spelling() {
    let (bundle, mut entities) = moved(&Files::usual().source());
    let nobody: EntityData = serde_json::from_value(json!({ "attrs": { "accounts": [] } })).unwrap();
    let admit = |entities: &Entities, id: &str| {
        let checked = bundle.check_entity(&person(id), &nobody)?;
        bundle.with(entities, None).admit(&checked).map(|()| checked)
    };
    let same = admit(&entities, "dana").unwrap();
    entities.insert(same, 100);
    assert_eq!(admit(&entities, "Dana").unwrap_err().to_string().matches("Person::").count(), 2);
    bundle.forget_entity(&mut entities, &person("dana"));
    let other = admit(&entities, "Dana").unwrap();
    entities.insert(other, 101);
    assert!(admit(&entities, "dana").is_err());
}

#[test]
fn a_type_lies_in_the_bundle_or_in_the_store() {
    let both = Files::usual().replaced("bundle.toml", "revision = 7", "revision = 7\nstored = [\"Dataset\"]");
    let findings = both.findings();
    assert!(
        findings.iter().any(|f| f.file == "entities.json" && f.message.contains("the store holds")),
        "{findings:?}"
    );
    let unknown = Files::usual().replaced("bundle.toml", "revision = 7", "revision = 7\nstored = [\"Datasets\"]");
    assert!(unknown.findings().iter().any(|f| f.file == "bundle.toml" && f.message.contains("no entity type")));
}

#[test]
fn a_policy_goes_no_further_than_its_bundle_says() {
    let deep = Files::usual().work(
        r#"@id("deep") permit (principal is Agent, action, resource is Dataset) when { principal.owner in Group::"owners" };"#,
    );
    let deep = deep.approve("");
    deep.load();
    let shallow = deep.replaced("bundle.toml", "revision = 7", "revision = 7\nlevel = 1");
    assert!(shallow.findings().iter().any(|f| f.policy.as_deref() == Some("deep") && f.message.contains("level")));
}

/// Groups in groups, persons in them, owners, datasets: all random, in a bundle whose policies look at all of it.
fn entities() -> impl Strategy<Value = Vec<Json>> {
    let groups = prop::collection::vec(prop::collection::vec(0..4_usize, 0..3), 4);
    let persons = prop::collection::vec(prop::collection::vec(0..4_usize, 0..3), 3);
    (groups, persons, 0..3_usize, prop::collection::vec(any::<bool>(), 2)).prop_map(|(groups, persons, owner, pii)| {
        let group = |id: usize| json!({ "type": "Group", "id": format!("g{id}") });
        let mut all = Vec::new();
        for (number, parents) in groups.iter().enumerate() {
            // Only below those that come later: no circles.
            let parents: Vec<Json> = parents.iter().filter(|p| **p > number).map(|p| group(*p)).collect();
            all.push(json!({ "uid": group(number), "attrs": {}, "parents": parents }));
        }
        for (number, parents) in persons.iter().enumerate() {
            let uid = json!({ "type": "Person", "id": format!("p{number}") });
            let parents: Vec<Json> = parents.iter().map(|p| group(*p)).collect();
            all.push(json!({ "uid": uid, "attrs": { "accounts": [format!("dev#p{number}")] }, "parents": parents }));
        }
        let owner = json!({ "__entity": { "type": "Person", "id": format!("p{owner}") } });
        all.push(json!({ "uid": { "type": "Agent", "id": "bot" }, "attrs": { "owner": owner }, "parents": [] }));
        for (number, pii) in pii.iter().enumerate() {
            let class = if *pii { "pii" } else { "public" };
            let uid = json!({ "type": "Dataset", "id": format!("d{number}") });
            all.push(json!({ "uid": uid, "attrs": { "classification": class }, "parents": [] }));
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_slice_of_the_store_answers_as_all_entities_do(entities in entities()) {
        let files = Files::usual()
            .work(
                r#"@id("owned") permit (principal is Agent, action, resource is Dataset) when { principal.owner in Group::"g3" };
                   @id("members") permit (principal is Person in Group::"g2", action, resource);
                   @id("pii") forbid (principal, action, resource is Dataset)
                   when { resource.classification == "pii" } unless { principal in Group::"g1" };"#,
            )
            .approve("")
            .with("entities.json", &serde_json::to_string(&entities).unwrap());
        let own = files.load();
        let (bundle, held) = moved(&files.source());
        let view = bundle.with(&held, None);
        for principal in ["Agent::\"bot\"", "Person::\"p0\"", "Person::\"p1\"", "Person::\"p2\"", "Agent::\"nobody\""] {
            for resource in ["d0", "d1", "d2"] {
                let mut ask = Ask::new("query", resource, "{}");
                ask.principal = entity(principal);
                ask.excluded.clear();
                let (a, b) = (ask.of(&own), ask.on(view).unwrap());
                prop_assert_eq!((a.verdict, a.determining), (b.verdict, b.determining), "{} {}", principal, resource);
            }
        }
    }

    #[test]
    fn a_claimed_group_answers_as_one_of_the_directory_does(entities in entities(), claimed in prop::collection::btree_set(0..5_usize, 0..3)) {
        let files = |entities: &[Json]| {
            Files::usual()
                .work(
                    r#"@id("owned") permit (principal is Agent, action, resource is Dataset) when { principal.owner in Group::"g3" };
                       @id("members") permit (principal is Person in Group::"g2", action, resource);
                       @id("pii") forbid (principal, action, resource is Dataset)
                       when { resource.classification == "pii" } unless { principal in Group::"g1" };"#,
                )
                .approve("")
                .with("entities.json", &serde_json::to_string(entities).unwrap())
        };
        // A fifth group there is not.
        let groups = claimed.iter().map(|id| EntityRef::new("Group", format!("g{id}")).unwrap()).collect();
        let who = entity("Person::\"p0\"");
        let mut as_directory = entities.clone();
        let own = as_directory.iter_mut().find(|entity| entity["uid"]["id"] == "p0").unwrap();
        let known = claimed.iter().filter(|id| **id < 4).map(|id| json!({ "type": "Group", "id": format!("g{id}") }));
        own["parents"].as_array_mut().unwrap().extend(known);
        let (expected, own) = (files(&as_directory).load(), files(&entities).load());
        let (bundle, held) = moved(&files(&entities).source());
        for principal in ["Agent::\"bot\"", "Person::\"p0\"", "Person::\"p1\""] {
            for resource in ["d0", "d1"] {
                let mut ask = Ask::new("query", resource, "{}");
                ask.principal = entity(principal);
                ask.excluded.clear();
                let expected = ask.of(&expected);
                for view in [own.alone(), bundle.with(&held, None)] {
                    let found = ask.on(view.claiming(&who, &groups)).unwrap();
                    prop_assert_eq!(
                        (&expected.verdict, &expected.determining), (&found.verdict, &found.determining), "{} {}", principal, resource
                    );
                }
            }
        }
    }
}
