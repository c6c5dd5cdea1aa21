"""``python -m sb3_ca2e.zoo`` runs ``sb3-ca2e``."""

from sb3_ca2e.zoo.cli import main

if __name__ == "__main__":
    main()
