"""The releases that can use the database."""

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class CompatibleRelease(Base):
    """A release that can use the tables as they are, by the newest migration that it knows."""

    __tablename__ = "compatible_releases"

    revision: Mapped[str] = mapped_column(primary_key=True)
