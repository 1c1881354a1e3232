"""Asks the sandbox through the official client's generated functions and models.

The models are strict: a field that they need and do not find is a KeyError, an unknown value of an enumeration a
ValueError. So an answer that parses here has the shape that the official client expects, and each check also
compares the values. The last line says how many passed; the exit status is 0 only if none failed.
"""

import datetime
import subprocess
import sys
import traceback
from uuid import UUID

from waldur_api_client import AuthenticatedClient
from waldur_api_client.api.marketplace_component_usages import (
    marketplace_component_usages_count as count,
    marketplace_component_usages_list as usages,
    marketplace_component_usages_retrieve as usage,
    marketplace_component_usages_set_usage as set_usage,
    marketplace_component_usages_set_user_usage as set_user_usage,
    marketplace_component_usages_set_user_usages as set_user_usages,
)
from waldur_api_client.api.marketplace_component_user_usages import (
    marketplace_component_user_usages_count as shares_count,
    marketplace_component_user_usages_list as shares,
    marketplace_component_user_usages_retrieve as share,
)
from waldur_api_client.api.marketplace_offering_users import marketplace_offering_users_list as offering_users
from waldur_api_client.api.marketplace_provider_offerings import (
    marketplace_provider_offerings_list as offerings,
    marketplace_provider_offerings_retrieve as offering,
)
from waldur_api_client.api.marketplace_provider_resources import (
    marketplace_provider_resources_list as resources,
    marketplace_provider_resources_plan_periods_list as plan_periods,
    marketplace_provider_resources_retrieve as resource,
    marketplace_provider_resources_set_backend_id as set_backend_id,
)
from waldur_api_client.api.marketplace_public_offerings import marketplace_public_offerings_retrieve as public_offering
from waldur_api_client.api.users import users_me_retrieve as me
from waldur_api_client.errors import UnexpectedStatus
from waldur_api_client.models import (
    ComponentUsageCreateRequest,
    ComponentUsageFieldEnum,
    ComponentUsageItemRequest,
    ComponentUsageOEnum,
    ComponentUserUsageBulkCreateRequest,
    ComponentUserUsageCreateRequest,
    MissingUsagePolicyEnum,
    ResourceBackendIDRequest,
    ResourceState,
)

A = UUID("5e2f0000-0000-4000-8000-000000000001")
OFFERING = UUID("91ab0000-0000-4000-8000-000000000001")
NOVEMBER = datetime.date(2026, 11, 1)
WHEN = datetime.datetime(2026, 11, 10, 11, 59, 58, 123456, tzinfo=datetime.timezone.utc)

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def same(found, expected, what="value"):
    if found != expected:
        raise AssertionError(f"{what}: {found!r}, expected {expected!r}")


def report(client, *items, **fields):
    body = ComponentUsageCreateRequest(resource=A, usages=list(items), **fields)
    answer = set_usage.sync_detailed(client=client, body=body)
    same((answer.status_code, answer.content), (201, b""), "answer")


def row(client, kind="cpu_hours"):
    (found,) = usages.sync(client=client, resource_uuid=A, type_=kind, billing_period=NOVEMBER)
    return found


@check
def set_usage_is_accepted_with_every_field_of_the_model(client):
    item = ComponentUsageItemRequest(
        type_="cpu_hours",
        amount="32.00",
        description="metered",
        missing_usage_policy=MissingUsagePolicyEnum.NONE,
        recurring=None,
    )
    report(client, item, ComponentUsageItemRequest(type_="storage_gb", amount="5"), date=WHEN)


@check
def a_component_usage_parses_and_has_the_values_that_were_set(client):
    found = row(client)
    same(str(found.usage), "32.00", "usage")
    same(found.date, WHEN, "date")
    same(found.billing_period, NOVEMBER, "billing_period")
    same(found.description, "metered", "description")
    same(found.missing_usage_policy, MissingUsagePolicyEnum.NONE, "missing_usage_policy")
    same(found.recurring, False, "recurring")
    same((found.resource_uuid, found.resource_name), (A, "Project A"), "resource")
    same((found.offering_uuid, found.offering_name), (OFFERING, "Sandbox cluster"), "offering")
    same((found.measured_unit, found.name), ("h", "CPU hours"), "component")
    same((found.customer_name, found.project_name), ("Acme", "Research"), "customer, project")
    same(type(found.modified_by), int, "modified_by")
    same(found.additional_properties, {}, "fields that the client does not know")
    same(usage.sync(client=client, uuid=found.uuid), found, "detail")


@check
def the_lists_filters_are_those_of_the_client(client):
    same(len(usages.sync(client=client, billing_period_month=11.0, billing_period_year=2026.0)), 2)
    same(len(usages.sync(client=client, billing_period_month=10.0)), 0)
    same(len(usages.sync(client=client, offering_uuid=OFFERING, page_size=1, page=2)), 1)
    same(len(usages.sync(client=client, missing_usage_policy=[MissingUsagePolicyEnum.ZERO])), 0)
    ordered = usages.sync(client=client, o=[ComponentUsageOEnum.USAGE])
    same([str(one.usage) for one in ordered], ["5.00", "32.00"], "order")
    (only, _) = usages.sync(client=client, field=[ComponentUsageFieldEnum.USAGE])
    same(list(only.to_dict()), ["usage"], "field")
    same(len(usages.sync_all(client=client)), 2, "all pages")
    same(count.sync(client=client), 2, "count")


@check
def every_choice_of_field_is_answered(client):
    for field in ComponentUsageFieldEnum:
        (found, _) = usages.sync(client=client, field=[field])
        same(list(found.to_dict()), [str(field)], "field")


@check
def shares_are_set_one_by_one_and_in_bulk(client):
    uuid = row(client).uuid
    (alice,) = offering_users.sync(client=client, offering_uuid=[OFFERING], username="alice")
    one = ComponentUserUsageCreateRequest(username="alice", usage="1.50", user=alice.url)
    answer = set_user_usage.sync_detailed(client=client, uuid=uuid, body=one)
    same((answer.status_code, answer.content), (201, b""), "one")
    many = [ComponentUserUsageCreateRequest(username="bob", usage="2", date=WHEN), one]
    body = ComponentUserUsageBulkCreateRequest(usages=many)
    answer = set_user_usages.sync_detailed(client=client, uuid=uuid, body=body)
    same((answer.status_code, answer.content), (201, b""), "many")
    found = {each.username: each for each in shares.sync(client=client, resource_uuid=A, page_size=300)}
    same({name: str(each.usage) for name, each in found.items()}, {"alice": "1.50", "bob": "2.00"}, "shares")
    same((found["alice"].user, found["bob"].user), (alice.url, None), "user")
    same((found["bob"].component_type, found["bob"].billing_period), ("cpu_hours", NOVEMBER), "row")
    same((found["bob"].resource_uuid, found["bob"].offering_uuid), (A, OFFERING), "resource")
    same(found["bob"].additional_properties, {}, "fields that the client does not know")
    same(share.sync(client=client, uuid=found["bob"].uuid), found["bob"], "detail")
    same(shares_count.sync(client=client), 2, "count")
    same(len(shares.sync(client=client, username="bob")), 1, "username")


@check
def an_empty_bulk_is_refused(client):
    try:
        set_user_usages.sync_detailed(
            client=client, uuid=row(client).uuid, body=ComponentUserUsageBulkCreateRequest(usages=[])
        )
    except UnexpectedStatus as error:
        same(error.status_code, 400, "status")
    else:
        raise AssertionError("accepted")


@check
def resources_parse(client):
    found = resources.sync(client=client, offering_uuid=[OFFERING], state=[ResourceState.OK])
    same({each.backend_id for each in found}, {"project-a", "project-b", "this-machine"}, "backend ids")
    (found,) = resources.sync(client=client, backend_id="project-a")
    same((found.uuid, found.state, found.offering_uuid), (A, ResourceState.OK, OFFERING), "resource")
    same(found.current_usages.additional_properties, {"cpu_hours": "32.00", "storage_gb": "5.00"}, "current_usages")
    same((found.is_usage_based, found.is_limit_based, found.plan_name), (True, True, "Standard"), "plan")
    same((found.customer_name, found.project_name, found.paused), ("Acme", "Research", False), "owner")
    same(found.additional_properties, {}, "fields that the client does not know")
    same(resource.sync(client=client, uuid=A), found, "detail")


@check
def plan_periods_parse_with_all_that_the_model_requires(client):
    (found,) = plan_periods.sync(client=client, uuid=A)
    same((found.plan_name, found.end), ("Standard", None), "period")
    same(found.start, datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc), "start")
    held = {each.type_: (each.usage, each.date, each.recurring) for each in found.components}
    same(held["cpu_hours"], ("32.00", WHEN, False), "component")
    same(found.components[0].additional_properties, {}, "fields that the client does not know")


@check
def offerings_parse(client):
    (found,) = offerings.sync(client=client)
    kinds = {each.type_: str(each.billing_type) for each in found.components}
    same(kinds["cpu_hours"], "usage", "component")
    same((kinds["storage_gb"], kinds["seats_fee"]), ("limit", "fixed"), "component")
    same((found.uuid, str(found.state), found.plans[0].name), (OFFERING, "Active", "Standard"), "offering")
    same(found.additional_properties, {}, "fields that the client does not know")
    same(found.components[0].additional_properties, {}, "fields that the client does not know")
    same(offering.sync(client=client, uuid=OFFERING), found, "detail")
    public = public_offering.sync(client=client, uuid=OFFERING)
    same({each.type_: str(each.billing_type) for each in public.components}, kinds, "public")


@check
def offering_users_parse(client):
    found = offering_users.sync(client=client, offering_uuid=[OFFERING])
    same({each.username for each in found}, {"alice", "bob", "root"}, "users")
    same({(each.offering_uuid, str(each.state)) for each in found}, {(OFFERING, "OK")}, "offering")
    same(found[0].additional_properties, {}, "fields that the client does not know")


@check
def the_user_parses(client):
    found = me.sync(client=client)
    same((found.username, found.token_lifetime, found.is_staff), ("provider", None, False), "user")
    roles = {(each.role_name, each.scope_type, each.scope_uuid) for each in found.permissions}
    same(("OFFERING.MANAGER", "offering", OFFERING) in roles, True, "role")
    same(found.additional_properties, {}, "fields that the client does not know")


@check
def a_backend_id_is_set(client):
    body = ResourceBackendIDRequest(backend_id="project-c")
    answer = set_backend_id.sync(client=client, uuid=A, body=body)
    same(answer.status, "Resource backend_id has been changed.", "status")


def main(sandbox):
    arguments = [sandbox, "--listen", "127.0.0.1:0", "--api", "current", "--now", "2026-11-10T12:00:00Z"]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    passed = failed = 0
    try:
        address = server.stdout.readline().removeprefix("listening on ").strip()
        with AuthenticatedClient(base_url=address, token="sandbox-token", prefix="Token") as client:
            for function in CHECKS:
                name = function.__name__.replace("_", " ")
                try:
                    function(client)
                except Exception:
                    failed += 1
                    print(f"FAILED {name}")
                    traceback.print_exc()
                else:
                    passed += 1
                    print(f"ok     {name}")
    finally:
        server.terminate()
        server.wait(timeout=10)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
