"""What a distilled student kept of its teacher, and where it lost the rest; without labels."""

from edgessl.distillation.account.account import account
from edgessl.distillation.account.afterwards import account_afterwards
from edgessl.distillation.account.result import Account, AccountOptions, write_account_schema

__all__ = ["Account", "AccountOptions", "account", "account_afterwards", "write_account_schema"]
